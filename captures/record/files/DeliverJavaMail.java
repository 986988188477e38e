// JavaMail: STARTTLS required, notifications, and chunks if the property says how large.
import java.io.FileInputStream;
import java.util.Properties;
import javax.mail.*;
import javax.mail.internet.*;

public class DeliverJavaMail {
    public static void main(String[] arguments) throws Exception {
        Properties settings = new Properties();
        settings.put("mail.smtp.host", "mx.example.test");
        settings.put("mail.smtp.localhost", "client.example");
        settings.put("mail.smtp.from", "ann@client.example");
        settings.put("mail.smtp.starttls.required", "true");
        settings.put("mail.smtp.starttls.enable", "true");
        settings.put("mail.smtp.ssl.trust", "mx.example.test");
        settings.put("mail.smtp.dsn.notify", "SUCCESS,FAILURE ORCPT=rfc822;bob@example.test");
        settings.put("mail.smtp.dsn.ret", "HDRS");
        settings.put("mail.smtp.chunksize", System.getProperty("chunks"));
        settings.put("mail.smtp.allow8bitmime", "true");
        settings.put("mail.smtp.sendpartial", "true");
        settings.put("mail.mime.allowutf8", "true");
        Session session = Session.getInstance(settings);
        for (String name : new String[] {"plain", "utf8"}) {
            try (FileInputStream file = new FileInputStream("/opt/record/" + name + ".eml")) {
                MimeMessage message = new MimeMessage(session, file);
                Transport transport = session.getTransport("smtp");
                transport.connect();
                transport.sendMessage(message, new Address[] {new InternetAddress("bob@example.test")});
                transport.close();
            }
        }
    }
}
