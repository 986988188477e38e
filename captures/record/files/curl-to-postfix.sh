#!/bin/sh -e
# Records curl's message to Postfix over STARTTLS, with the session's keys:
#   unshare --net --mount sh curl-to-postfix.sh FOLDER
# as root, where Debian's postfix, curl and tshark are installed.  All of it stays on a loopback
# interface of its own; what Postfix accepts it discards.  CERT names a PEM file with key and
# certificate.
folder=$(realpath "$1"); etc=$(mktemp -d); here=$(dirname "$(realpath "$0")")
ip link set lo up
echo '127.0.0.1 localhost mx.example.test' > "$etc/hosts"
mount --bind "$etc/hosts" /etc/hosts
mkdir "$etc/queue" "$etc/data"; chown postfix "$etc/data"; chmod 755 "$etc"
cat > "$etc/main.cf" <<X
compatibility_level = 3.6
queue_directory = $etc/queue
data_directory = $etc/data
myhostname = mx.example.test
mydestination = example.test
local_recipient_maps =
alias_maps =
local_transport = discard:
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtpd_tls_security_level = may
smtpd_tls_chain_files = $CERT
smtputf8_enable = no
maillog_file = /var/log/curl-to-postfix.log
X
cat > "$etc/master.cf" <<X
smtp     inet       n - n - - smtpd
cleanup  unix       n - n - 0 cleanup
qmgr     unix       n - n 300 1 qmgr
rewrite  unix       - - n - - trivial-rewrite
bounce   unix       - - n - 0 bounce
tlsmgr   unix       - - n 1000? 1 tlsmgr
anvil    unix       - - n - 1 anvil
discard  unix       - - n - - discard
postlog  unix-dgram n - n - 1 postlogd
X
postfix -c "$etc" start
tshark -q -i lo -F pcap -w "$folder/curl-to-postfix.pcap" -f 'tcp port 25' &
sleep 3
SSLKEYLOGFILE=$folder/curl-to-postfix.keys \
curl --silent --show-error --ssl-reqd --insecure smtp://mx.example.test/client.example \
    --mail-from ann@client.example --mail-rcpt bob@example.test \
    --upload-file "$here/plain.eml" --crlf
sleep 1
kill -INT $!; wait $! || true
postfix -c "$etc" stop
