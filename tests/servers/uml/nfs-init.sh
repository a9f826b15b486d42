#!/bin/bash
# The first process of the guest: an NFS server, two clients of it with kernels' state of their own, then the job.
# From the kernel's command line: RESULTS, a directory of the host that is written to; JOB, a script of the host; and what that reads.
# The guest's root is the host's /, read-only.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

mount -t proc proc /proc
mount -t sysfs sys /sys
for place in /run /var/lib/nfs /mnt /srv; do mount -t tmpfs tmpfs "$place"; done
mkdir -p /dev/shm /dev/pts /run/lock /run/rpc_pipefs /run/results
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts
mount -t hostfs none /run/results -o "$RESULTS"
exec >/run/results/guest.log 2>&1
ip link set lo up

# Modules are searched for below a root of their own: the host has none for this kernel.
mkdir -p /srv/modules/lib/modules /srv/export
ln -s "/usr/lib/uml/modules/$(uname -r)" /srv/modules/lib/modules/
for module in "lockd nlm_grace_period=1" nfs nfsv3 nfsv4 nfsd veth; do
  # Two words are a module and its parameter.
  # shellcheck disable=SC2086
  modprobe -d /srv/modules $module || echo "no module $module"
done

# The server: ext4 on a disk, exported to both.
mount -t rpc_pipefs sunrpc /run/rpc_pipefs
mount -t nfsd nfsd /proc/fs/nfsd
mkdir -p /var/lib/nfs/{sm,sm.bak,nfsdcld,v4recovery} /run/rpcbind
touch /var/lib/nfs/{etab,rmtab,xtab,state}
ln -s /run/rpc_pipefs /var/lib/nfs/rpc_pipefs
mount -t ext4 /dev/ubda /srv/export
# Its own network is all it has: no need to bind to one address, which makes rpcbind abort.
chown _rpc /run/rpcbind
rpcbind
exportfs -i -o rw,no_root_squash,insecure,no_subtree_check,sync,fsid=0 "127.0.0.1:/srv/export"
exportfs -i -o rw,no_root_squash,insecure,no_subtree_check,sync,fsid=0 "10.9.0.2:/srv/export"
rpc.mountd -p 20048
echo 10 >/proc/fs/nfsd/nfsv4leasetime
echo 10 >/proc/fs/nfsd/nfsv4gracetime
nfsdcld
rpc.nfsd 4
# Nobody has anything to reclaim from a server that never ran.
echo Y >/proc/fs/nfsd/v4_end_grace

# Two clients. The second has a network and a host name of its own, so that the kernel shares neither caches nor sessions.
ip link add to-two type veth peer name eth0
ip netns add two
ip link set eth0 netns two
ip address add 10.9.0.1/24 dev to-two
ip link set to-two up
ip -n two address add 10.9.0.2/24 dev eth0
ip -n two link set eth0 up
ip -n two link set lo up
# What the server had not yet sent when it was stopped is lost, as with a machine that goes down.
echo 0 >/proc/sys/net/ipv4/tcp_max_orphans
hostname one
mount_for() { # client, version, server, options
  mkdir -p "/mnt/$1-v$2"
  case $2 in
    3) timeout 20 mount -t nfs -o "vers=3,proto=tcp,nolock,mountport=20048,hard,$4" "$3:/srv/export" "/mnt/$1-v$2" ;;
    4) timeout 20 mount -t nfs -o "vers=4.2,proto=tcp,hard,$4" "$3:/" "/mnt/$1-v$2" ;;
  esac || echo "mount of $1 v$2: $?"
}
export -f mount_for
for version in 3 4; do
  mount_for one $version 127.0.0.1 timeo=50
  nsenter --net=/run/netns/two unshare --uts bash -c "hostname two; mount_for two $version 10.9.0.1 timeo=50"
done
grep nfs /proc/mounts
echo "ready after $(cut -d' ' -f1 /proc/uptime) s"

# shellcheck disable=SC1090
source "$JOB"
echo "done after $(cut -d' ' -f1 /proc/uptime) s"
sync
# A bare machine has no `halt`.
echo o >/proc/sysrq-trigger
sleep 60
