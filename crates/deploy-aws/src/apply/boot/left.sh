# Computes the seconds left. The first boot notes when the machine expires; later ones read the note. Its name has the instance's
# id, so that an image of this machine gets its own time to live. With a wrong note or clock, at most the whole time is left.
file=/var/lib/provisioned-classifier-$INSTANCE_ID-expires
now=$(date +%s)
[ -s "$file" ] || echo $((now + seconds)) > "$file"
read -r expires < "$file"
case $expires in '' | *[!0-9]*) expires=$((now + seconds)) ;; esac
left=$((expires - now))
[ $left -le $seconds ] || left=$seconds
[ $left -ge 5 ] || left=5
