set eds a=1 b=1
publish
connect web delta
# Endpoints are by name: an empty first request is no wildcard.
web > eds
web quiet
web > eds +a +nope
web < eds a=1
web < eds -nope
status web eds waiting held=1 missing=1
# Asked again, it is sent again, although it is unchanged.
web > eds +a
web < eds a=1
# What comes into being later is sent to who waits for it, once.
set eds nope=1 other=1
publish
web < eds nope=1
web > eds -nope
set eds nope=2
publish
web quiet
# A removed resource stays subscribed.
unset eds a
publish
web < eds -a
set eds a=1
publish
web < eds a=1
web > eds -a -never
unset eds a
publish
web quiet
