# One publication touches every type: additions in the order CDS, EDS, LDS, RDS,
# VHDS, then removals, who refers before what is referred to.
set cds old=1
set eds old=1
set lds out=1
set rds 80=1
set vhds 80/old=1
publish
connect web delta
web > vhds +80
web < vhds 80/old=1
web > rds +80
web < rds 80=1
web > lds +*
web < lds out=1
web > eds +old +new
web < eds old=1
web < eds -new
web > cds +*
web < cds old=1

# Envoy's clusters warm on a new assignment: old is sent again after its CDS.
web < eds old=1

unset cds old
unset eds old
unset vhds 80/old
set cds new=1
set eds new=1
set lds out=2
set rds 80=2
set vhds 80/new=1
publish
web < cds new=1
web < eds new=1
web < lds out=2
web < rds 80=2
web < vhds 80/new=1
web < vhds -80/old
web < cds -old
web < eds -old
