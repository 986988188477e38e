// One message with everything that an envelope can say.
const fs = require("fs");
const nodemailer = require("nodemailer");

const transport = nodemailer.createTransport({
  host: "mx.example.test",
  port: 25,
  name: "client.example",
});
const raw = fs.readFileSync("/opt/record/utf8.eml");

transport.sendMail({
  raw,
  envelope: {
    from: "ann@client.example",
    to: ["jürgen@example.test", "eve@elsewhere.example", "bob@example.test"],
    size: raw.length,
    use8BitMime: true,
    dsn: {
      id: "envelope-1",
      return: "headers",
      notify: ["failure", "delay"],
      recipient: "ann@client.example",
    },
  },
}).catch((error) => {
  console.error(error);
  process.exit(1);
});
