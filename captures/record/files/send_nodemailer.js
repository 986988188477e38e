// Two messages through one pooled connection, as a web application sends them.
const nodemailer = require("nodemailer");

const transport = nodemailer.createTransport({
  host: "mx.example.test",
  port: 25,
  name: "client.example",
  pool: true,
  maxConnections: 1,
});

const message = (to, number) => ({
  from: "Ann Example <ann@client.example>",
  to,
  subject: "Your order",
  text: "Thank you.\n.\nA dot stands alone above.\n",
  messageId: `<${number}@client.example>`,
});

(async () => {
  await transport.sendMail(message(["bob@example.test", "carol@example.test"], 1));
  await transport.sendMail(message("dave@example.test", 2));
  transport.close();
})();
