# One message to two recipients through the client that comes with Perl.
use strict;
use warnings;
use Net::SMTP;

open(my $file, '<', '/opt/record/plain.eml') or die $!;
my $smtp = Net::SMTP->new('mx.example.test', Hello => 'client.example') or die $@;
$smtp->mail('ann@client.example');
$smtp->recipient('bob@example.test', 'carol@example.test');
$smtp->data();
$smtp->datasend($_) while <$file>;
$smtp->dataend() or die $smtp->message();
$smtp->quit();
