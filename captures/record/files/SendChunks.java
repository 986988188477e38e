// One message to two recipients through JavaMail, in chunks, with notifications.
import java.io.FileInputStream;
import java.util.Properties;
import javax.mail.Session;
import javax.mail.Transport;
import javax.mail.internet.MimeMessage;

public class SendChunks {
    public static void main(String[] arguments) throws Exception {
        Properties settings = new Properties();
        settings.put("mail.smtp.host", "mx.example.test");
        settings.put("mail.smtp.localhost", "client.example");
        settings.put("mail.smtp.from", "ann@client.example");
        settings.put("mail.smtp.chunksize", "200");
        settings.put("mail.smtp.dsn.notify", "SUCCESS,FAILURE");
        settings.put("mail.smtp.dsn.ret", "HDRS");
        Session session = Session.getInstance(settings);
        try (FileInputStream file = new FileInputStream("/opt/record/plain.eml")) {
            MimeMessage message = new MimeMessage(session, file);
            message.addRecipients(javax.mail.Message.RecipientType.CC, "carol@example.test");
            Transport.send(message);
        }
    }
}
