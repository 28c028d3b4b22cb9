# Virtual hosts as resources of their own: "80" stands for all of route
# configuration 80; single ones come on demand; what nobody knows is answered.
set vhds 80/a=1 80/b=1 8080/a=1 8/x=1 80-tls/y=1
publish
connect web delta
web > vhds +80
web < vhds 80/a=1 80/b=1
set vhds 80/c=1 8080/a=2
unset vhds 80/b
publish
web < vhds 80/c=1
web < vhds -80/b
web > vhds +8080/a +8080/nobody
web < vhds 8080/a=2
web < vhds -8080/nobody
web > vhds -80
set vhds 80/a=2 8080/a=3
publish
web < vhds 8080/a=3

# On demand by authority: the resource goes by its own name, with what was
# asked for as alias.
alias vhds 80/reviews:80 80/reviews.shop.svc=1
publish
web > vhds +80/reviews:80
web < vhds 80/reviews.shop.svc~80/reviews:80=1

# An owner that has nothing yet is answered, and followed.
web > vhds +9999
web < vhds (empty)
set vhds 9999/first=1
publish
web < vhds 9999/first=1
