# Responses are split near the limit (4 KiB here, 1 MiB in production).
set cds a=3000*x b=3000*y c=10*z
publish
connect web delta
web > cds
web < cds a=3000*x
web < cds b=3000*y c=zzzzzzzzzz
web > cds ack:0
status web cds waiting held=3 missing=0
web > cds ack:1
status web cds synced held=3 missing=0
