# Computes the seconds that are left. The first boot notes when the machine expires; later ones read it. The note has the instance's
# id, so that an image of this machine has a time to live of its own. Without a note, or with a wrong clock, all of it is left at most.
file=/var/lib/provisioned-classifier-$INSTANCE_ID-expires
now=$(date +%s)
[ -s "$file" ] || echo $((now + seconds)) > "$file"
read -r expires < "$file"
case $expires in '' | *[!0-9]*) expires=$((now + seconds)) ;; esac
left=$((expires - now))
[ $left -le $seconds ] || left=$seconds
[ $left -ge 5 ] || left=5
