package lab

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// Device is a network namespace with cables to others, a name server of its own at the
// address of Docker's, and certificate authorities that its programs trust, as those
// of a machine's own store. It forwards nothing: what is behind a neighbour cannot be
// reached but by a program there.
type Device struct {
	*Netns
	trust *Authority
	names *Nameserver

	mu     sync.Mutex
	hosts  map[string]netip.Addr // what has been plugged in so far; guarded by mu
	cables int                   // guarded by mu
}

// dockerDNS is where a container on a Docker network asks for names.
const dockerDNS = "127.0.0.11"

// NewDevice makes a device that trusts an authority; nil is nobody.
func NewDevice(ctx context.Context, trust *Authority) (_ *Device, err error) {
	n, err := NewNetns(ctx, dockerDNS)
	if err != nil {
		return nil, err
	}
	d := &Device{Netns: n, trust: trust, hosts: map[string]netip.Addr{}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("making a device: %w", err), d.Close())
		}
	}()
	certs := filepath.Join(n.etc(), "ssl", "certs")
	if err := os.MkdirAll(certs, 0o755); err != nil {
		return nil, err
	}
	if trust != nil {
		if err := trust.Write(filepath.Join(certs, "ca-certificates.crt")); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// Names sets which hosts its name server knows.
func (d *Device) Names(hosts map[string]netip.Addr) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.Copy(d.hosts, hosts)
	if d.names != nil {
		if err := d.names.Close(); err != nil {
			return err
		}
	}
	conn, err := d.ListenPacket("udp4", dockerDNS+":53")
	if err != nil {
		return fmt.Errorf("answering questions for names: %w", err)
	}
	d.names = NewHosts(conn, d.hosts)
	return nil
}

// Plug lays a cable from this device to one below it. Both ends get addresses of one
// network, whose number is different for each cable of a lab. More addresses are given
// to the upper end.
func (d *Device) Plug(ctx context.Context, below *Device, network int, more ...netip.Addr) (upper, lower netip.Addr, err error) {
	d.mu.Lock()
	d.cables++
	end := fmt.Sprintf("d%d", d.cables)
	d.mu.Unlock()
	upper, lower = Addr(network, 1), Addr(network, 2)
	if err := IP(ctx, "-n", d.Name, "link", "add", end, "type", "veth", "peer", "name", "u0", "netns", below.Name); err != nil {
		return upper, lower, err
	}
	commands := [][]string{
		{d.Name, "link set " + end + " addrgenmode none"}, {below.Name, "link set u0 addrgenmode none"},
		{d.Name, fmt.Sprintf("addr add %v/24 dev %s", upper, end)}, {below.Name, fmt.Sprintf("addr add %v/24 dev u0", lower)},
		{d.Name, "link set " + end + " up"}, {below.Name, "link set u0 up"},
	}
	for _, a := range more {
		commands = append(commands, []string{d.Name, fmt.Sprintf("addr add %v/24 dev %s", a, end)})
	}
	for _, c := range commands {
		if err := IP(ctx, append([]string{"-n", c[0]}, strings.Fields(c[1])...)...); err != nil {
			return upper, lower, err
		}
	}
	return upper, lower, nil
}

// Addr is an address of a network of the lab.
func Addr(network, host int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 77, byte(network), byte(host)})
}

// Enter returns the command line that runs a program in the namespace, in the place of
// itself, with the files that the namespace has instead of those in /etc. Other than
// ip-netns(8) it leaves /sys alone, below which engines look for control groups. The
// namespace that is nil is the machine's own.
func (n *Netns) Enter(path string, args ...string) (string, []string, error) {
	if n == nil {
		return path, args, nil
	}
	nsenter, err := System("nsenter", "util-linux")
	if err != nil {
		return "", nil, err
	}
	const script = `for f in "$0"/*; do mount --bind "$f" "/etc/${f##*/}" || exit; done; exec "$@"`
	return nsenter, append([]string{
		"--net=" + filepath.Join("/run/netns", n.Name), "unshare", "--mount", "sh", "-c", script, n.etc(), path,
	}, args...), nil
}

// runIn is as [Run], with [Netns.Enter].
func runIn(ctx context.Context, n *Netns, dir string, env Env, path string, args ...string) (string, error) {
	path, args, err := n.Enter(path, args...)
	if err != nil {
		return "", err
	}
	return Run(ctx, dir, env, path, args...)
}

// Transport connects from the device, by names that it knows and with the authority
// that it trusts. It keeps no connections.
func (d *Device) Transport() *http.Transport {
	config := new(tls.Config)
	if d.trust != nil {
		config.RootCAs = d.trust.Pool()
	}
	return &http.Transport{DialContext: d.DialName, TLSClientConfig: config, DisableKeepAlives: true, DisableCompression: true}
}

// DialName connects to host:port, the host by a name that the device knows or by number.
func (d *Device) DialName(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	if known, ok := d.hosts[host]; ok {
		host = known.String()
	}
	d.mu.Unlock()
	return d.DialContext(ctx, network, net.JoinHostPort(host, port))
}

// Answers returns a Ready function: the URL gives an answer of any kind.
func (d *Device) Answers(url string) func(context.Context) error {
	client := &http.Client{Transport: d.Transport()}
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	}
}

// Close removes the device. Programs in it go on running.
func (d *Device) Close() error {
	var err error
	if d.names != nil {
		err = d.names.Close()
	}
	return errors.Join(err, d.Netns.Close())
}
