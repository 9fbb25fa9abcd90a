package lab

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Netns is a network namespace: a machine of its own as far as the network goes. Its
// loopback interface is up, and there is nothing else in it. It takes root.
type Netns struct {
	// Name is what ip-netns(8) calls it.
	Name string

	mu        sync.Mutex
	published []net.Listener // guarded by mu
}

// netnsEtc is where ip-netns(8) looks for files that replace those in /etc.
const netnsEtc = "/etc/netns"

// netnsPrefix begins the names of ours. Next is the process that has made it.
const netnsPrefix = "e2e-"

// sweep removes what processes have left that were killed.
func sweep() error {
	left, err := filepath.Glob(filepath.Join("/run/netns", netnsPrefix+"*"))
	if err != nil {
		return err
	}
	for _, path := range left {
		name := filepath.Base(path)
		pid, _, _ := strings.Cut(strings.TrimPrefix(name, netnsPrefix), "-")
		if _, err := os.Stat(filepath.Join("/proc", pid)); errors.Is(err, os.ErrNotExist) {
			_ = (&Netns{Name: name}).Close() // another one may do the same
		}
	}
	return nil
}

// NewNetns makes a namespace whose programs ask the name server at the address.
// Close removes it.
func NewNetns(ctx context.Context, nameserver string) (_ *Netns, err error) {
	if err := sweep(); err != nil {
		return nil, fmt.Errorf("making a network namespace: %w", err)
	}
	n := &Netns{Name: fmt.Sprintf("%s%d-%s", netnsPrefix, os.Getpid(), strings.ToLower(rand.Text()[:8]))}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("making a network namespace: %w", err), n.Close())
		}
	}()
	if err := IP(ctx, "netns", "add", n.Name); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(n.etc(), 0o755); err != nil {
		return nil, err
	}
	for name, text := range map[string]string{
		"resolv.conf": "nameserver " + nameserver + "\n",
		"hosts":       "127.0.0.1 localhost\n",
	} {
		if err := os.WriteFile(filepath.Join(n.etc(), name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	return n, IP(ctx, "-n", n.Name, "link", "set", "lo", "up")
}

func (n *Netns) etc() string { return filepath.Join(netnsEtc, n.Name) }

// IP runs ip(8).
func IP(ctx context.Context, args ...string) error {
	ip, err := System("ip", "iproute2")
	if err != nil {
		return err
	}
	_, err = Run(ctx, os.TempDir(), nil, ip, args...)
	return err
}

// Join lays a cable between two namespaces. Each end is the interface e0, with an
// address of its own out of one network, and it is the way to all other addresses.
// Neither end asks who has an address: what is sent is sent by programs.
func Join(ctx context.Context, a, b *Netns, addrA, addrB string) error {
	if err := IP(ctx, "-n", a.Name, "link", "add", "e0", "type", "veth", "peer", "name", "e0", "netns", b.Name); err != nil {
		return err
	}
	for _, end := range []struct {
		n          *Netns
		addr, peer string
		mac, next  string
	}{
		{a, addrA, addrB, "02:00:00:00:00:0a", "02:00:00:00:00:0b"},
		{b, addrB, addrA, "02:00:00:00:00:0b", "02:00:00:00:00:0a"},
	} {
		for _, args := range []string{
			"link set e0 address " + end.mac,
			"link set e0 addrgenmode none", // no IPv6
			"addr add " + end.addr + "/24 dev e0",
			"link set e0 up",
			"route add default via " + end.peer,
			"neigh replace " + end.peer + " lladdr " + end.next + " dev e0 nud permanent",
		} {
			if err := IP(ctx, append([]string{"-n", end.n.Name}, strings.Fields(args)...)...); err != nil {
				return err
			}
		}
	}
	return nil
}

// Sent returns how many packets have left by the interface e0.
func (n *Netns) Sent() (packets int, err error) {
	err = n.do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/dev")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			// Eight columns are about what was received, see proc(5).
			if fields := strings.Fields(line); len(fields) > 10 && fields[0] == "e0:" {
				packets, err = strconv.Atoi(fields[10])
				return err
			}
		}
		return errors.New("there is no interface e0")
	})
	return packets, err
}

// Connecting returns how many connections to a port are being opened, and are not
// open yet: SYN_SENT in proc(5).
func (n *Netns) Connecting(port int) (count int, err error) {
	const synSent = "02"
	err = n.do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/tcp")
		if err != nil {
			return err
		}
		// The kernel may list one twice while others come and go.
		from := map[string]bool{}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 3 && f[3] == synSent && strings.HasSuffix(f[2], fmt.Sprintf(":%04X", port)) {
				from[f[1]] = true
			}
		}
		count = len(from)
		return nil
	})
	return count, err
}

// Drop makes the namespace lose all packets to a TCP port, or to none.
func (n *Netns) Drop(ctx context.Context, port int, drop bool) error {
	iptables, err := System("iptables", "iptables")
	if err != nil {
		return err
	}
	action := "-A"
	if !drop {
		action = "-D"
	}
	_, err = n.Run(ctx, os.TempDir(), nil, iptables, "-w", action, "INPUT", "-p", "tcp", "--dport", strconv.Itoa(port), "-j", "DROP")
	return err
}

// Dropped returns how many packets were lost because of Drop, while it is in force.
func (n *Netns) Dropped(ctx context.Context) (packets int, err error) {
	iptables, err := System("iptables", "iptables")
	if err != nil {
		return 0, err
	}
	text, err := n.Run(ctx, os.TempDir(), nil, iptables, "-w", "-nvxL", "INPUT")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "DROP" {
			count, err := strconv.Atoi(f[0])
			if err != nil {
				return 0, fmt.Errorf("reading %q: %w", line, err)
			}
			packets += count
		}
	}
	return packets, nil
}

// Run is as [Run], in the namespace.
func (n *Netns) Run(ctx context.Context, dir string, env Env, path string, args ...string) (stdout string, err error) {
	ip, err := System("ip", "iproute2")
	if err != nil {
		return "", err
	}
	return Run(ctx, dir, env, ip, append([]string{"netns", "exec", n.Name, path}, args...)...)
}

// Command writes a program into a directory that runs another one in the namespace,
// in the place of itself, and returns its path.
func (n *Netns) Command(dir, path string) (string, error) {
	ip, err := System("ip", "iproute2")
	if err != nil {
		return "", err
	}
	command := filepath.Join(dir, filepath.Base(path)+"-"+n.Name)
	text := fmt.Sprintf("#!/bin/sh\nexec %q netns exec %q %q \"$@\"\n", ip, n.Name, path)
	if err := os.WriteFile(command, []byte(text), 0o755); err != nil {
		return "", fmt.Errorf("writing a command: %w", err)
	}
	return command, nil
}

// Listen listens in the namespace.
func (n *Netns) Listen(network, addr string) (l net.Listener, err error) {
	err = n.do(func() error {
		l, err = net.Listen(network, addr)
		return err
	})
	return l, err
}

// ListenPacket does so for packets.
func (n *Netns) ListenPacket(network, addr string) (c net.PacketConn, err error) {
	err = n.do(func() error {
		c, err = net.ListenPacket(network, addr)
		return err
	})
	return c, err
}

// DialContext connects to an address, by number, from within the namespace.
func (n *Netns) DialContext(ctx context.Context, network, addr string) (c net.Conn, err error) {
	err = n.do(func() error {
		c, err = new(net.Dialer).DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

// do calls a function on an operating system thread that is in the namespace. A
// socket stays in the namespace that it was made in.
func (n *Netns) do(call func() error) error {
	done := make(chan error, 1)
	go func() {
		// The thread is not unlocked: it ends with the goroutine.
		runtime.LockOSThread()
		done <- func() error {
			f, err := os.Open(filepath.Join("/run/netns", n.Name))
			if err != nil {
				return err
			}
			defer f.Close()
			if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("entering the network namespace %s: %w", n.Name, err)
			}
			return call()
		}()
	}()
	return <-done
}

// Publish takes connections to a loopback address of this machine to the same
// address in the namespace, until Close.
func (n *Netns) Publish(addr string) error { return n.PublishAs(addr, addr) }

// PublishAs does so where the address in the namespace is another one.
func (n *Netns) PublishAs(outer, inner string) error {
	l, err := listen(outer)
	if err != nil {
		return fmt.Errorf("publishing %s: %w", inner, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.published = append(n.published, l)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			go n.relay(conn, inner)
		}
	}()
	return nil
}

func (n *Netns) relay(outer net.Conn, addr string) {
	defer outer.Close()
	inner, err := n.DialContext(context.Background(), "tcp", addr)
	if err != nil {
		return // as if nobody listened: the connection is closed
	}
	defer inner.Close()
	go func() {
		// An error: one side has gone, and so will the other.
		_, _ = io.Copy(inner, outer)
		_ = inner.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(outer, inner)
}

// Close removes the namespace. Programs in it go on running.
func (n *Netns) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for _, l := range n.published {
		errs = append(errs, l.Close())
	}
	n.published = nil
	if _, err := os.Stat(filepath.Join("/run/netns", n.Name)); err == nil {
		errs = append(errs, IP(context.Background(), "netns", "delete", n.Name))
	}
	errs = append(errs, os.RemoveAll(n.etc()))
	_ = os.Remove(netnsEtc) // there may be others
	return errors.Join(errs...)
}

// StartModuleIn is as [StartModule], in a namespace. The server can be reached from
// within it and from this machine at the same addresses.
func StartModuleIn(ctx context.Context, n *Netns, binary, dir string, env Env) (*Server, error) {
	command, err := n.Command(dir, binary)
	if err != nil {
		return nil, err
	}
	all := logsRequests()
	for _, name := range []string{"REGISTRY_HTTP_ADDR", "REGISTRY_HTTP_DEBUG_ADDR"} {
		if all[name], err = FreeAddr(); err != nil {
			return nil, err
		}
		if err := n.Publish(all[name]); err != nil {
			return nil, err
		}
	}
	for name, value := range env {
		all[name] = value
	}
	s, err := StartModule(ctx, command, dir, all)
	if err != nil {
		return nil, err
	}
	s.Admin = all["REGISTRY_HTTP_DEBUG_ADDR"]
	return s, nil
}
