set eds a=1 b=1
publish
connect web sotw
web > eds list:a
web < eds 1
set eds a=2
publish
web < eds 2
# The answer to the first response is stale: its names are not looked at, for
# the answer to the second will say them again.
web > eds list:a,b ack:0
web quiet
web > eds list:a,b ack:1
web < eds 1
web > eds list:a,b ack
# Names may change with the nonce that was acknowledged already.
web > eds list:b ack
set eds a=3
publish
web quiet
# A NACK is no reason to send the same again.
set eds b=2
publish
web < eds 2
web > eds list:b nack b: no
web quiet
status web eds rejected b(no) held=1 missing=0
# A request without nonce begins the type anew.
web > eds list:b
web < eds 2
