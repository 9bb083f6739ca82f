# A process that needs neither systemd nor D-Bus. It leaves cloud-init's session and control group, and is the last to be killed
# when memory runs out. Its clock is the uptime, which cannot be set. The timer fires 15 s earlier, and ends the machine in order.
setsid sh -c '
  echo $$ > /run/provisioned-classifier-time-to-live.pid
  echo -1000 > /proc/$$/oom_score_adj
  echo $$ > /sys/fs/cgroup/init.scope/cgroup.procs
  read -r up _ < /proc/uptime
  end=$((${up%.*} + $1))
  while [ ${up%.*} -lt $end ]; do
    sleep $((end - ${up%.*}))
    read -r up _ < /proc/uptime
  done
  poweroff -n -f -f
  echo o > /proc/sysrq-trigger
' provisioned-classifier-time-to-live $((left + 15)) < /dev/null > /dev/null 2>&1 &
