<?php
// PHPMailer with STARTTLS and notifications; what it made is kept to be held against what arrives.
require 'libphp-phpmailer/autoload.php';

$mail = new PHPMailer\PHPMailer\PHPMailer(true);
$mail->isSMTP();
$mail->Host = 'mx.example.test';
$mail->Port = 25;
$mail->SMTPSecure = 'tls';
$mail->SMTPOptions = ['ssl' => ['cafile' => '/etc/ssl/record.pem']];
$mail->Hostname = 'client.example';
$mail->dsn = 'SUCCESS,FAILURE';
$mail->setFrom('ann@client.example', 'Ann Example');
$mail->addAddress('bob@example.test');
$mail->Subject = 'Your order';
$mail->Body = "Thank you.\n.\nA dot stands alone above.\n";
$mail->send();
file_put_contents('/opt/record/made.eml', $mail->getSentMIMEMessage() . "\r\n");
