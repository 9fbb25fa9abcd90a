package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"registry-module/doctor/report"
)

// party is somebody who is connected to.
type party struct {
	// noun is for the middle of a sentence, for example "the registry".
	noun string
	// setting is what says who it is, empty where the registry does.
	setting string
}

func (e *examination) registry() party {
	return party{noun: "the registry", setting: e.r.Variable("REMOTEURL")}
}

// checkName is advice about a name that does not do.
func (p party) checkName() string {
	if p.setting == "" {
		return "The registry names this host itself: if it is right, have the name server know it."
	}
	return "Check the name in " + p.setting + ". If it is right, have the name server of this machine know it " +
		"(/etc/resolv.conf; of a container: docker run --dns)."
}

// resolve looks a host up.
func (e *examination) resolve(ctx context.Context, who party, host string) ([]netip.Addr, report.Finding) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr}, report.Passed("%s is given by its address", who.noun)
	}
	addrs, err := e.lookup(ctx, host)
	if err != nil {
		return nil, e.notResolved(ctx, who, host, err)
	}
	if len(addrs) == 0 {
		return nil, report.Fail(who.checkName(), "%s has no address", host)
	}
	return addrs, report.Passed("%s → %s", host, listAddrs(addrs))
}

func (e *examination) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	var resolver Resolver = net.DefaultResolver
	if e.Resolver != nil {
		resolver = e.Resolver
	}
	addrs, err := resolver.LookupNetIP(ctx, "ip", host)
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, err
}

func (e *examination) notResolved(ctx context.Context, who party, host string, err error) report.Finding {
	server := "the name server"
	var text string
	dnsErr, isDNS := errors.AsType[*net.DNSError](err)
	if isDNS {
		text = strings.ToLower(dnsErr.Err)
		if dnsErr.Server != "" {
			server += " " + dnsErr.Server
		}
	}
	const dns = "Check /etc/resolv.conf of this machine (of a container: docker run --dns), and that port 53 is allowed, UDP and TCP."
	switch {
	case isDNS && dnsErr.IsNotFound:
		return report.Fail(who.checkName(), "there is no host %s: its name is not known (NXDOMAIN)", host)
	case strings.Contains(text, "connection refused"), strings.Contains(text, "unreachable"), strings.Contains(text, "no dns servers"):
		return report.Fail(dns, "%s cannot be looked up: this machine has no name server that can be reached", host)
	case isDNS && dnsErr.IsTimeout, isTimeout(err), ctx.Err() != nil:
		return report.Fail(dns, "%s cannot be looked up: %s does not answer", host, server)
	case isDNS:
		return report.Fail("Try again later, or use another name server (/etc/resolv.conf).",
			"%s cannot be looked up: %s has a failure of its own (%s)", host, server, e.secrets.Clean(dnsErr.Err))
	default:
		return report.Fail(dns, "%s cannot be looked up: %s", host, e.secrets.Clean(err.Error()))
	}
}

func listAddrs(addrs []netip.Addr) string {
	const most = 3
	var texts []string
	for _, a := range addrs[:min(len(addrs), most)] {
		texts = append(texts, a.String())
	}
	if more := len(addrs) - most; more > 0 {
		texts = append(texts, fmt.Sprintf("%d more", more))
	}
	return strings.Join(texts, ", ")
}

// maxDials is how many addresses of each family are tried.
const maxDials = 3

// dialed is what came of dialing the addresses of a family.
type dialed struct {
	conn net.Conn
	addr netip.AddrPort
	err  error // nil where there was no address, too
	took time.Duration
}

// connect makes a TCP connection to one of addrs. Both families are tried, since
// one that does not work costs each connection time that nobody can explain.
func (e *examination) connect(ctx context.Context, who party, addrs []netip.Addr, port string) (net.Conn, report.Finding) {
	var families [2][]netip.Addr // IPv4, IPv6
	for _, a := range addrs {
		i := 0
		if a.Is6() {
			i = 1
		}
		families[i] = append(families[i], a)
	}
	six := make(chan dialed, 1)
	go func() { six <- e.dialFamily(ctx, families[1], port) }()
	v4 := e.dialFamily(ctx, families[0], port)
	v6 := <-six
	switch {
	case v4.conn != nil && v6.conn != nil:
		_ = v6.conn.Close() // one is enough
		return v4.conn, timed(report.Passed("%s, and by IPv6 %s", v4.addr, v6.addr.Addr()), v4.took)
	case v4.conn != nil && v6.err != nil && !isUnreachable(v6.err):
		return v4.conn, timed(report.Warn("Mend IPv6 on this machine's network, or switch it off: each new connection may wait for it.",
			"%s by IPv4, but not by IPv6: %s", v4.addr, e.dialText(v6)), v4.took)
	case v4.conn != nil:
		return v4.conn, timed(report.Passed("%s", v4.addr), v4.took)
	case v6.conn != nil && v4.err != nil && !isUnreachable(v4.err):
		return v6.conn, timed(report.Warn("Mend IPv4 on this machine's network: each new connection may wait for it.",
			"%s by IPv6, but not by IPv4: %s", v6.addr, e.dialText(v4)), v6.took)
	case v6.conn != nil:
		return v6.conn, timed(report.Passed("%s", v6.addr), v6.took)
	case len(families[0]) == 0 && isUnreachable(v6.err):
		return nil, report.Fail("Give this machine IPv6, or reach "+who.noun+" through an HTTP proxy that has it ("+e.r.Variable("HTTPPROXY")+").",
			"%s has IPv6 addresses only (%s), and this machine has no route for IPv6", who.noun, v6.addr.Addr())
	case v4.err != nil:
		return nil, e.notConnected(who, v4)
	default:
		return nil, e.notConnected(who, v6)
	}
}

func timed(f report.Finding, took time.Duration) report.Finding {
	f.Took = took
	return f
}

// dialFamily tries addresses until one answers.
func (e *examination) dialFamily(ctx context.Context, addrs []netip.Addr, port string) (d dialed) {
	n, err := net.LookupPort("tcp", port)
	if err != nil {
		return dialed{err: err}
	}
	addrs = addrs[:min(len(addrs), maxDials)]
	for i, a := range addrs {
		start := time.Now()
		d.addr = netip.AddrPortFrom(a, uint16(n)) // LookupPort knows the range
		limited, cancel := share(ctx, len(addrs)-i)
		d.conn, d.err = e.dial(limited, d.addr.String())
		cancel()
		if d.took = time.Since(start); d.err == nil {
			break
		}
	}
	return d
}

// share gives a part of the time that is left.
func share(ctx context.Context, parts int) (context.Context, context.CancelFunc) {
	end, limited := ctx.Deadline()
	if !limited {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(end)/time.Duration(parts))
}

func (e *examination) dial(ctx context.Context, addr string) (net.Conn, error) {
	if e.DialContext != nil {
		return e.DialContext(ctx, "tcp", addr)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
}

// dialHost connects to a host by the injected resolver and dialer.
func (e *examination) dialHost(ctx context.Context, _, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	addrs := make([]netip.Addr, 1)
	if addrs[0], err = netip.ParseAddr(host); err != nil {
		if addrs, err = e.lookup(ctx, host); err != nil {
			return nil, err
		}
	}
	d := e.dialFamily(ctx, addrs, port)
	if d.conn == nil && d.err == nil {
		return nil, errors.New("no address")
	}
	return d.conn, d.err
}

// dialText says what went wrong, without who and what to do.
func (e *examination) dialText(d dialed) string {
	switch {
	case errors.Is(d.err, syscall.ECONNREFUSED):
		return fmt.Sprintf("%s refuses the connection", d.addr)
	case isUnreachable(d.err):
		return fmt.Sprintf("there is no route to %s", d.addr.Addr())
	case isTimeout(d.err):
		return fmt.Sprintf("%s does not answer", d.addr)
	case errors.Is(d.err, syscall.ECONNRESET):
		return fmt.Sprintf("the connection to %s was reset", d.addr)
	case errors.Is(d.err, syscall.EACCES), errors.Is(d.err, syscall.EPERM):
		return fmt.Sprintf("this machine forbids connections to %s", d.addr)
	default:
		return fmt.Sprintf("%s: %s", d.addr, e.secrets.Clean(d.err.Error()))
	}
}

func (e *examination) notConnected(who party, d dialed) report.Finding {
	text := who.noun + " cannot be reached: " + e.dialText(d)
	port := fmt.Sprint(d.addr.Port())
	proxy := ", or name an HTTP proxy that may (" + e.r.Variable("HTTPPROXY") + ")"
	if e.proxy != nil {
		proxy = ""
	}
	check := "Check host and port"
	if who.setting != "" {
		check += " in " + who.setting
	}
	switch {
	case errors.Is(d.err, syscall.ECONNREFUSED):
		return report.Fail(check+": nothing listens there, or a firewall rejects it.", "%s", text)
	case isUnreachable(d.err):
		return report.Fail("Check this machine's network: address, default gateway, VPN (ip route).", "%s", text)
	case isTimeout(d.err):
		return report.Fail("A firewall drops it, or the host is down: allow outgoing TCP to port "+port+proxy+".", "%s", text)
	case errors.Is(d.err, syscall.EACCES), errors.Is(d.err, syscall.EPERM):
		return report.Fail("Allow outgoing TCP to port "+port+" in the firewall of this machine"+proxy+".", "%s", text)
	default:
		return report.Fail(check+", and that a firewall allows outgoing TCP to port "+port+proxy+".", "%s", text)
	}
}

func isUnreachable(err error) bool {
	return errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.EADDRNOTAVAIL) ||
		errors.Is(err, syscall.EAFNOSUPPORT)
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, syscall.ETIMEDOUT) ||
		errors.As(err, &timeout) && timeout.Timeout()
}

// defaultPorts are those of the schemes of registries and of proxies.
var defaultPorts = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}

func portOf(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	return defaultPorts[u.Scheme]
}

// authority is host and port of u, the port always present.
func authority(u *url.URL) string { return net.JoinHostPort(u.Hostname(), portOf(u)) }

func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(authority(a), authority(b))
}
