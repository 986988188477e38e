# Ruby's net/smtp: STARTTLS demanded, then TLS from the first octet on.
require 'net/smtp'

message = File.read('/opt/record/plain.eml')
trust = OpenSSL::SSL::SSLContext.new
trust.set_params(ca_file: '/etc/ssl/record.pem')
smtp = Net::SMTP.new('mx.example.test', 25)
smtp.enable_starttls(trust)
smtp.start(helo: 'client.example') do
  smtp.send_message message, 'ann@client.example', 'bob@example.test', 'carol@example.test'
end
smtp = Net::SMTP.new('mx.example.test', 465)
smtp.enable_tls(trust)
smtp.start(helo: 'client.example') do
  smtp.send_message message, 'ann@client.example', 'bob@example.test', 'carol@example.test'
end
