# Prints whether both mechanisms are armed, and if not, what they printed at boot. Needs no root rights.
timer=$(systemctl show --property=SubState --value provisioned-classifier-time-to-live.timer 2>&1)
process=missing
if read -r pid < /run/provisioned-classifier-time-to-live.pid &&
  grep -q provisioned-classifier-time-to-live "/proc/$pid/cmdline"; then
  process=running
fi 2> /dev/null
echo "timer $timer"
echo "process $process"
[ "$timer $process" = "waiting running" ] ||
  grep -e '^sh: ' -e provisioned-classifier /var/log/cloud-init-output.log 2> /dev/null | tail -n 5
