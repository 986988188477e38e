// All of nodemailer that sends: STARTTLS required, TLS at once, pools, notifications, raw content,
// envelopes of their own, attachments, addresses beyond ASCII, refused recipients.
const assert = require("assert");
const fs = require("fs");
const nodemailer = require("nodemailer");

const ca = fs.readFileSync("/etc/ssl/record.pem");
const host = { host: "mx.example.test", name: "client.example", tls: { ca } };
const plain = fs.readFileSync("/opt/record/plain.eml");
const envelope = { from: "ann@client.example", to: ["bob@example.test", "carol@example.test"] };

(async () => {
  const pool = nodemailer.createTransport({
    ...host, port: 25, requireTLS: true, pool: true, maxConnections: 2, maxMessages: 10,
  });
  await pool.verify();
  await Promise.all(
    Array.from({ length: 20 }, () => pool.sendMail({ envelope, raw: plain })),
  );
  pool.close();

  const secure = nodemailer.createTransport({ ...host, port: 465, secure: true });
  const info = await secure.sendMail({
    raw: plain,
    envelope: {
      ...envelope,
      to: ["bob@example.test", "eve@elsewhere.example"],
      size: plain.length,
      use8BitMime: true,
      dsn: { id: "envelope-1", return: "headers", notify: ["success", "failure", "delay"],
             recipient: "ann@client.example" },
    },
  });
  assert.deepStrictEqual(info.rejected, ["eve@elsewhere.example"]);
  assert.deepStrictEqual(info.accepted, ["bob@example.test"]);
  await assert.rejects(
    secure.sendMail({ raw: plain, envelope: { ...envelope, size: 100000000 } }), /larger than allowed/);
  await assert.rejects(
    secure.sendMail({ raw: plain, envelope: { ...envelope, to: "eve@elsewhere.example" } }), /550/);
  await secure.sendMail({
    from: "Jörg <jörg@client.example>",
    to: "jürgen@example.test",
    raw: fs.readFileSync("/opt/record/utf8.eml"),
    envelope: { from: "jörg@client.example", to: ["jürgen@example.test"] },
  });

  // What nodemailer makes itself is kept, so that what arrives can be held against it.
  const made = nodemailer.createTransport({ streamTransport: true, buffer: true, newline: "windows" });
  const { message } = await made.sendMail({
    from: "Ann Example <ann@client.example>", to: "bob@example.test", subject: "Grüße", text: "Hallo",
    html: "<p>.\r\n.</p>", messageId: "<1@client.example>", date: new Date(0),
    attachments: [{ filename: "large.bin", content: Buffer.alloc(3000000, "\x00\xff.\r\n", "latin1") }],
  });
  fs.writeFileSync("/opt/record/made.eml", message);
  const opportunistic = nodemailer.createTransport({ ...host, port: 25 });
  await opportunistic.sendMail({ envelope, raw: message });
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
