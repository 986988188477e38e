# Perl's Net::SMTP: STARTTLS, notifications, and a bad recipient skipped.  (It sends chunks only to
# who takes BINARYMIME.)
use strict;
use warnings;
use Net::SMTP;

open(my $file, '<', '/opt/record/plain.eml') or die $!;
my @lines = <$file>;
my $smtp = Net::SMTP->new('mx.example.test', Hello => 'client.example') or die $@;
$smtp->starttls(SSL_ca_file => '/etc/ssl/record.pem') or die $smtp->message();
$smtp->mail('ann@client.example', Return => 'FULL', Envelope => 'envelope-1', Bits => '8') or die;
$smtp->recipient('bob@example.test', { Notify => ['SUCCESS', 'FAILURE'], ORcpt => 'rfc822;bob@example.test' })
    or die $smtp->message();
$smtp->data(\@lines) or die $smtp->message();
$smtp->mail('ann@client.example') or die;
$smtp->recipient('bob@example.test', 'dave@elsewhere.example', { SkipBad => 1 }) or die;
$smtp->data(\@lines) or die $smtp->message();
$smtp->quit();
