<?php
// One message to two recipients, as a contact form sends it.
require 'libphp-phpmailer/autoload.php';

$mail = new PHPMailer\PHPMailer\PHPMailer(true);
$mail->isSMTP();
$mail->Host = 'mx.example.test';
$mail->Port = 25;
$mail->Hostname = 'client.example';
$mail->setFrom('ann@client.example', 'Ann Example');
$mail->addAddress('bob@example.test');
$mail->addAddress('carol@example.test');
$mail->Subject = 'Your order';
$mail->Body = "Thank you.\n.\nA dot stands alone above.\n";
$mail->send();
