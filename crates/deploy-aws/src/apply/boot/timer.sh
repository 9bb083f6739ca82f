# A timer of systemd's, enabled, so that a restarted machine has it even when cloud-init does not run. The timer and its service wait
# for no target: cloud-init itself is ordered before sysinit.target, which units wait for by default. systemctl speaks to systemd
# without D-Bus, and it is systemd itself that powers off.
cd /etc/systemd/system && mkdir -p timers.target.wants || exit
cat > provisioned-classifier-time-to-live.timer << END
[Unit]
Description=Time to live of this machine
DefaultDependencies=no

[Timer]
OnActiveSec=$left
AccuracySec=1s
END
cat > provisioned-classifier-time-to-live.service << END
[Unit]
Description=Power off at the end of the time to live
DefaultDependencies=no
SuccessAction=poweroff
FailureAction=poweroff-force

[Service]
Type=oneshot
ExecStart=true
END
ln -sf ../provisioned-classifier-time-to-live.timer timers.target.wants/
timeout 20 systemctl daemon-reload
timeout 20 systemctl --no-block restart provisioned-classifier-time-to-live.timer
