#!/bin/sh
# A conversation as somebody types it into openssl s_client: each line waits a little for an answer.
say() { sleep 0.3; printf "$1\r\n"; }
length=$(($(sed 's/$/\r/' /opt/record/plain.eml | wc -c)))
sleep 2  # a greeting may be long in coming
say 'EHLO client.example'
say 'MAIL FROM:<ann@client.example> BODY=8BITMIME RET=HDRS'
say 'RCPT TO:<bob@example.test> NOTIFY=NEVER'
if [ "$1" = chunks ]; then
    say "BDAT 100"
    sed 's/$/\r/' /opt/record/plain.eml | head -c 100
    say "BDAT $((length - 100)) LAST"
    sed 's/$/\r/' /opt/record/plain.eml | tail -c +101
else
    say DATA
    sleep 0.3
    sed 's/^\./../; s/$/\r/' /opt/record/plain.eml
    printf '.\r\n'
fi
say QUIT
sleep 0.3
