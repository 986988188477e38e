"""Words that sanitising keeps, and why: they belong to the protocols, not to anybody.

All of them in lower case.  What is kept is decided by these lists and by where a word stands; the
check for left-overs lets pass what is in them, and nothing else.
"""

from __future__ import annotations

import re


def terms(text: str) -> frozenset[str]:
    """The words of ``text``."""
    return frozenset(text.split())


COMMANDS = terms(
    """
    atrn auth bdat burl data ehlo etrn expn helo help lhlo mail noop quit rcpt rset saml send
    soml starttls turn vrfy xclient xexch50 xforward
    """
)
"""Verbs (RFC 5321 section 4.1 and its extensions)."""

FOREIGN_COMMANDS = terms(
    """
    accept connect get head host http options pass post proxy put ssh tcp4 tcp6 unknown user
    user-agent
    """
)
"""What others begin with who call on a mail server."""

PARAMETERS = terms(
    """
    7bit 8bit 8bitmime addr anonymous auth binarymime body by cram-md5 delay destaddr destport
    digest-md5 envid esmtp external failure from full gssapi hdrs helo holdfor holduntil ident
    last local login mt-priority name never notify ntlm oauthbearer orcpt plain port proto
    remote requiretls ret rfc822 scram-sha-1 scram-sha-256 size smtp smtputf8 source success
    tempunavail to unavailable utf-8 xoauth2
    """
)
"""Parameters of commands and their values."""

EHLO_KEYWORDS = terms(
    """
    8bitmime atrn auth bdat binarymime burl checkpoint chunking deliverby dsn
    enhancedstatuscodes etrn expn future-release futurerelease gssapi help limits mailmax
    mt-priority no-soliciting ntlm onex pipelining rcptdomainmax rcptmax requiretls saml send
    size smtputf8 soml starttls submitter time turn utf8smtp verb verp vrfy x-anonymoustls
    x-exps x-link2state x-rcptlimit xacl xauth xclient xexch50 xforward xrdst xshadow
    xshadowrequest xstart xverp
    """
)
"""Extensions (the IANA registry, and what is often seen besides)."""

REPLY_WORDS = terms(
    """
    a about above accept accepted accepting accepts access account action active add address
    addresses after again aiosmtpd all allowed already an and anonymous another anti any are
    argument arguments as ascii ask at attempt attempts authenticated authentication authorized
    available back bad bait banner bare bdat be because been before begin begun behind being bit
    blacklist blacklisted blocked body bounced bound busy but by bye can can't cannot
    certificate challenge change changed character characters chasquid check chunk chunks client
    clients clock closed closing code come comes command commands complete completed completion
    concurrent configuration configured connect connected connection connections contains
    content continue control courier cr cr-lf credentials crlf currently cut daemon data
    database date days debian deferred delay delayed deliver delivered delivery denied
    destination did digits disabled disconnect disconnecting disk dkim dmarc dns dnsbl do does
    doesn't domain domains don't dot dovecot down due dummy duplicate during e-mailrelay each
    earlier early ehlo ehlo/helo email emailrelay enabled encryption end ended ending ends
    enough enter envelope eof error errors escape esmtp established everything exceed exceeded
    exceeds exchange exim exist existing exists exit expanded expected expn extended extension
    failed failure fatal feature file filter final first follow following follows for forbidden
    format forwarded found free from full fully further given gnu go goahead goodbye got greet
    greeting greetings greylist greylisted greylisting gsmtp had handshake haraka has hash have
    header headers heard heavy hello helo helo/ehlo help here hexadecimal high hold host hosting
    hostname how i i'm id identity illegal implemented in inactive incomplete incorrect
    information initiated input insecure insufficient internal invalid ip ip4 ip6 ipv4 ipv6 is
    issue it its join junk key known large last later lead least length less lf lhlo limit
    limits line lines linux list listed lists lmtp load local long longer lookup loop lost low
    made mail mailbox mailboxes maildir mailer-daemon mailmax mailserver mailsrv main malformed
    many maximum may mda mechanism mechanisms memory message messages method microsoft milter
    missing more most moved mox mta much must mx name named names need needed needs nested
    network never new next nice no non none noop not nothing notify now null number octet octets
    of off ok okay on one only open opensmtpd operation or other our ours out outgoing over own
    parameter parameters parse part password path per permanent permission permitted pipelining
    plaintext please pleased pleasure policy port possible postfix postmaster prior probably
    problem proceed process processed processing program prohibited protocol provided ptr python
    qmail qualified query queue queued queueid quit quota r ran rate rbl rcpt rcptmax reached
    reaches read reads ready reason reasons receive received receiving recipient recipients
    recognised recognized record refused regards reject rejected rejecting relay relayed
    relaying remote removed repeat replaced reputation request requested require required
    requires reset resolution resolve resolved resources response restart ret retry return
    reverse reverse-path rfc rfc822 route rset rules said say says score section secure security
    see semicolon send sender senders sending sendmail sends sent sequence server servers
    service service! session sessions set settings should shutting simulated size sleep smtp
    smtpd so some something sorry spam specified spf stalwart start started starttls state
    status storage stored stream string style success successful successfully such suffer
    supported switch synchronization syntax system take taken takes talk talked talker talking
    tell temporarily temporary terminated terminating text than thanks that the their them then
    there they thing third this threshold throttled time timed timeout times tls to today too
    took transaction transactions transfer transferred transmission trouble try trying turn
    twice type u ubuntu unable unauthenticated unauthorized unavailable unexpected unimplemented
    unknown unrecognized unsafe unsolicited unsupported until up us use used user username using
    utf valid verb verification verified verify version via violation virus vrfy wait waited
    want was way we welcome well went were what when where which while who whom whose will
    windows with within without work write wrong wrote xtext yet you your yours zero zimbra
    allows answer answered codes discarded encoded enhanced every goes included into labels looked
    make max once outside peer place replies saying speaks discard lowered rejects tempfailed
    """
)
"""What servers say, and what the programs are called that say it."""

HEADER_FIELDS = terms(
    """
    accept-language action apparently-to arc-authentication-results arc-message-signature
    arc-seal arrival-date authentication-results auto-submitted autocrypt bcc bimi-selector cc
    comments content-description content-disposition content-id content-language content-length
    content-location content-md5 content-transfer-encoding content-type date delivered-to
    delivery-date diagnostic-code disposition-notification-to dkim-signature domainkey-signature
    dsn-gateway envelope-to errors-to expires face feedback-id final-recipient from importance
    in-reply-to keywords last-attempt-date lines list-archive list-help list-id list-owner
    list-post list-subscribe list-unsubscribe list-unsubscribe-post mail-followup-to
    mail-reply-to message-id mime-version organization original-envelope-id original-recipient
    precedence priority received received-from-mta received-spf references remote-mta reply-to
    reporting-mta resent-bcc resent-cc resent-date resent-from resent-message-id resent-reply-to
    resent-sender resent-to return-path return-receipt-to sender sensitivity status subject
    supersedes thread-index thread-topic to user-agent will-retry-until x-abuse-reports-to
    x-auto-response-suppress x-face x-gm-message-state x-google-smtp-source x-loop x-mailer
    x-mailer-version x-mimeole x-ms-has-attach x-ms-tnef-correlator x-msmail-priority
    x-original-to x-originalarrivaltime x-originating-ip x-priority x-received x-report-abuse
    x-sender x-spam-checker-version x-spam-flag x-spam-level x-spam-score x-spam-status x-status
    x-uidl x-virus-scanned
    """
)
"""Names of header fields (the IANA registry, and common ones besides)."""

MIME_WORDS = terms(
    """
    7bit 8bit access-type alternative application ascii attachment audio base64 binary bmp
    boundary byteranges calendar cancel charset creation-date css csv delayed delivered
    delivery-status delsp digest disposition-notification document dsn encrypted enriched
    enveloped-data expanded external-body failed feedback-report filename fixed flowed form
    form-data format gif global gzip headers html id image inline javascript jpeg jpg json md5
    message method micalg mixed modification-date mp3 mp4 mpeg ms-excel ms-powerpoint ms-tnef
    ms-word msword multipart name no number octet-stream officedocument openxmlformats parallel
    partial pdf pgp-encrypted pgp-keys pgp-signature pkcs7-mime pkcs7-signature plain png
    profile protocol publish quoted-printable read-date related relayed reply reply-type report
    report-type request response rfc822 rfc822-headers rtf sha-1 sha-256 sha1 sha256 sheet
    signed signed-data size smime-type spreadsheetml start start-info svg tempfail text tiff
    total type us-ascii utf-16 utf-7 utf-8 utf8 uuencode version video vnd wav wordprocessingml
    x-gzip x-msdownload x-pkcs7-mime x-pkcs7-signature x-tar x-unix-mode x-uuencode
    x-zip-compressed xml yes zip
    """
)
"""Media types, their parameters, encodings."""

FIELD_WORDS = terms(
    """
    1 2 3 4 5 arc auto-generated auto-notified auto-replied bits bulk by cipher dkim dmarc dns
    ed25519-sha256 ehlo envelope-from esmtp esmtpa esmtps esmtpsa fail first-class for from ftp
    ftps fw fwd header helo high http https id junk list lmtp lmtps low mailto neutral no
    non-urgent none normal ok pass permerror re relaxed rfc822 rsa-sha1 rsa-sha256 simple smtp
    smtp; softfail spf temperror tls tlsv1 tlsv1.2 tlsv1.3 unknown urgent using utf8smtp verify
    version via with www yes
    """
)
"""What stands in the values of header fields by rule."""

SCHEMES = terms("cid data file ftp ftps http https mailto mid www")
"""Of links, in message text."""

MAILBOXES = terms("abuse hostmaster mailer-daemon no-reply noreply postmaster webmaster")
"""Local parts that servers treat in their own way (RFC 5321 section 4.5.1, RFC 2142)."""

FILE_KINDS = terms(
    """
    7z asc avi bat bmp com csv dat doc docx eml exe gif gz htm html ics iso jpeg jpg js json log
    mov mp3 mp4 msg ods odt p7m p7s pdf png ppt pptx rar scr sig svg tar tgz tif tiff txt vbs
    vcf xls xlsx xml zip
    """
)
"""Endings of file names."""

CALENDAR = terms(
    """
    apr aug dec feb fri gmt jan jul jun mar may mon nov oct sat sep sun thu tue utc wed
    """
)
"""Parts of dates (RFC 5322 section 3.3): dates are kept, as the capture's times are."""

CHARACTER_SETS = terms(
    """
    1250 1251 1252 1253 1254 1255 1256 1257 1258 1987 2022 5601 8859 arabic big5 cp1250 cp1251
    cp1252 cp437 cp850 euc-jp euc-kr euc-tw gb18030 gb2312 gbk greek hebrew iso8859 jis koi8
    koi8-r koi8-u ks-c-5601-1987 macintosh roman shift shift-jis tis-620 utf16 utf8 windows
    """
)
"""Names of character sets."""

HOSTS = terms("fe80 ffff 3fff localdomain localhost localhost.localdomain")
"""What every machine calls itself, and how addresses begin that belong to no one."""

PROMPTS = terms("ntlmssp ugfzc3dvcmq6 username vxnlcm5hbwu6")
"""What AUTH asks for, in base64 too, and how NTLM begins."""

RESERVED_ENDINGS = ("test", "example", "invalid", "example.com", "example.net", "example.org")
"""Names under these belong to no one (RFC 2606)."""

KEPT_ENDINGS = ("localdomain", "localhost", "local", "in-addr.arpa", "ip6.arpa")
"""What stands before these is replaced, but not these themselves."""

KEPT: dict[str, frozenset[str]] = {
    "SMTP command": COMMANDS,
    "what others say to a mail server": FOREIGN_COMMANDS,
    "SMTP parameter": PARAMETERS,
    "SMTP extension": EHLO_KEYWORDS,
    "what servers say, and their programs' names": REPLY_WORDS,
    "name of a header field": HEADER_FIELDS,
    "MIME word": MIME_WORDS,
    "what stands in header fields by rule": FIELD_WORDS,
    "link scheme": SCHEMES,
    "mailbox with a meaning of its own": MAILBOXES,
    "file name ending": FILE_KINDS,
    "part of a date": CALENDAR,
    "prompt of AUTH": PROMPTS,
    "character set": CHARACTER_SETS,
    "this very machine": HOSTS,
}
"""All of the above, by the reason why they are kept."""


def _parts() -> frozenset[str]:
    words = frozenset().union(*KEPT.values())
    pieces = {piece for word in words for piece in word.replace("'", "-").split("-")}
    pieces |= {piece for word in words for piece in word.replace("/", ".").split(".")}
    reserved = {piece for ending in RESERVED_ENDINGS + KEPT_ENDINGS for piece in ending.split(".")}
    return words | pieces | reserved


ANYWHERE = _parts()
"""Words that the check lets pass, pieces of hyphenated ones too."""

PROMPT = re.compile(
    rb"(?i)(?:user ?name|password|login|user)\x00?|[^\x00-\x1f<>@0-9.:]{2,40}:[ \t\x00]*"
)
"""What a server asks for in AUTH LOGIN, in any language: a few words and a colon."""
