# One message to two recipients through the client that comes with Ruby.
require 'net/smtp'

message = File.read('/opt/record/plain.eml')
Net::SMTP.start('mx.example.test', 25, helo: 'client.example', starttls: false) do |smtp|
  smtp.send_message message, 'ann@client.example', 'bob@example.test', 'carol@example.test'
end
