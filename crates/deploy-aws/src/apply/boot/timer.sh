# An enabled timer of systemd, so that a restarted machine has it even if cloud-init does not run. Timer and service wait for no
# target: units wait for sysinit.target by default, and that waits for cloud-init. systemctl talks to systemd without D-Bus, and
# systemd itself powers off.
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
