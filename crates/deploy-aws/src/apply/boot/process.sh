# A process of its own, which needs neither systemd nor D-Bus. It leaves cloud-init's session and control group, and is the last that
# is ended when memory runs out. The uptime is its clock, which cannot be set. The timer comes 15 s before it, and ends the machine
# in order.
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
