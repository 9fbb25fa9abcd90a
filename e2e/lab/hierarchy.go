package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"crypto/tls"
)

// HierarchyOptions says what hierarchy of gateways to build.
type HierarchyOptions struct {
	// Dir is an empty directory, Binary is registry-module.
	Dir, Binary string
	// Lower is how many layers there are below the top, each with its API proxy.
	Lower int
	// Registries are the hosts of the upstreams, the remotes of the top's module in
	// this order.
	Registries []RegistryHost
	// Env is added to the settings of the top's module.
	Env Env
	// Caches are the settings of the modules that lower layers have, by the layer's
	// number; the top is 0. The remote of each is the parent. What is not there is a
	// layer with a proxy alone.
	//
	// The working directory of each module has server.pem and server.key, which are for
	// it, root.pem, which is the site's, edge.pem, which is the device's Edge CA, and
	// revoked.pem, which that has signed, and which is an empty list.
	Caches map[int]Env
	// Runtime has each module find what the IoT Edge runtime gives it: its environment, and
	// the workload API. Lower layers' modules then trust, of themselves, the public
	// authorities only. CertificateLife is how long certificates of that API are good for;
	// 0 is for as long as is asked for.
	Runtime         bool
	CertificateLife time.Duration
	// MaxTempFile is as in [APIProxyOptions].
	MaxTempFile string
}

// RegistryHost is an upstream.
type RegistryHost struct {
	Host   string
	Link   *Link // nil for the machine's own speed
	Images []Image
	// Env is the settings of the remote, but for its URL, without a number.
	Env Env
}

// Hierarchy is a top device with a registry module and an API proxy, below it layers
// each with an API proxy, and above it upstreams: each in a network namespace of its
// own that has cables to its neighbours only. It takes root.
type Hierarchy struct {
	// WAN is where the upstreams are, in the order of the options.
	WAN     *Device
	Origins []*Origin
	// Layers are the top and those below it.
	Layers []*Layer
	// Blobs is the blob service of the top.
	Blobs *BlobStub
	// Root is what all devices of the site trust.
	Root *Authority

	o        HierarchyOptions
	internet *Authority
	networks int
	close    []func() error // the last one first
}

// NewHierarchy builds one. Close ends it.
func NewHierarchy(ctx context.Context, o HierarchyOptions) (_ *Hierarchy, err error) {
	h := &Hierarchy{o: o}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("building a hierarchy: %w", err), h.Close())
		}
	}()
	for _, authority := range []**Authority{&h.Root, &h.internet} {
		if *authority, err = NewAuthority(); err != nil {
			return nil, err
		}
	}
	if err := h.top(ctx); err != nil {
		return nil, err
	}
	for range o.Lower {
		if err := h.lower(ctx); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// Top is the layer that has the way to the upstreams.
func (h *Hierarchy) Top() *Layer { return h.Layers[0] }

// Lowest is the layer that has no other below it.
func (h *Hierarchy) Lowest() *Layer { return h.Layers[len(h.Layers)-1] }

func (h *Hierarchy) device(ctx context.Context, trust *Authority) (*Device, error) {
	d, err := NewDevice(ctx, trust)
	if err == nil {
		h.close = append(h.close, d.Close)
	}
	return d, err
}

func (h *Hierarchy) plug(ctx context.Context, upper, lower *Device, more ...netip.Addr) (up, low netip.Addr, err error) {
	h.networks++
	return upper.Plug(ctx, lower, h.networks, more...)
}

// top makes the upstreams, and the top layer.
func (h *Hierarchy) top(ctx context.Context) (err error) {
	if h.WAN, err = h.device(ctx, nil); err != nil {
		return err
	}
	docker, err := h.device(ctx, h.internet)
	if err != nil {
		return err
	}
	// A network of its own has room for an address for each upstream.
	var addrs []netip.Addr
	hosts := map[string]netip.Addr{}
	for i, r := range h.o.Registries {
		addrs = append(addrs, Addr(h.networks+1, 10+i))
		hosts[r.Host] = addrs[i]
	}
	if _, _, err := h.plug(ctx, h.WAN, docker, addrs...); err != nil {
		return err
	}
	if err := docker.Names(hosts); err != nil {
		return err
	}
	env := Env{}
	for i, r := range h.o.Registries {
		if err := h.origin(r, addrs[i]); err != nil {
			return err
		}
		number := ""
		if i > 0 {
			number = "_" + strconv.Itoa(i+1)
		}
		env["REGISTRY_PROXY_REMOTEURL"+number] = "https://" + r.Host
		for name, value := range r.Env {
			env[name+number] = value
		}
	}
	maps.Copy(env, h.o.Env)
	return h.layer(ctx, docker, env, "")
}

// origin starts an upstream with TLS at an address.
func (h *Hierarchy) origin(r RegistryHost, addr netip.Addr) error {
	cert, err := h.internet.Certificate(r.Host, time.Now().Add(-time.Hour))
	if err != nil {
		return err
	}
	at := netip.AddrPortFrom(addr, 443).String()
	o, err := StartOrigin(OriginOptions{Link: r.Link, Site: &Site{
		URL: "https://" + r.Host, Addr: at,
		Listen: func() (net.Listener, error) {
			l, err := h.WAN.Listen("tcp", at)
			if err != nil {
				return nil, err
			}
			return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{*cert}}), nil
		},
	}}, r.Images...)
	if err != nil {
		return err
	}
	h.Origins = append(h.Origins, o)
	h.close = append(h.close, o.Down)
	return nil
}

// lower adds a layer below the lowest.
func (h *Hierarchy) lower(ctx context.Context) error {
	parent := h.Lowest()
	settings, cache := h.o.Caches[len(h.Layers)]
	trust := h.Root
	if cache && h.o.Runtime {
		trust = h.internet
	}
	d, err := h.device(ctx, trust)
	if err != nil {
		return err
	}
	up, _, err := h.plug(ctx, parent.Device, d)
	if err != nil {
		return err
	}
	if err := d.Names(map[string]netip.Addr{parent.Hostname: up}); err != nil {
		return err
	}
	if !cache {
		return h.layer(ctx, d, nil, parent.Hostname)
	}
	env := Env{"REGISTRY_PROXY_REMOTEURL": "https://" + parent.Registry()}
	maps.Copy(env, settings)
	return h.layer(ctx, d, env, parent.Hostname)
}

// layer adds a layer whose cable upwards is plugged into a device already: with a module
// there where there are settings for one.
func (h *Hierarchy) layer(ctx context.Context, docker *Device, module Env, parent string) (err error) {
	number := len(h.Layers)
	l := &Layer{Hostname: fmt.Sprintf("gateway-%d.plant.example", number), Device: docker, Docker: docker, root: h.Root}
	if l.Authority, err = h.Root.Sub("Edge CA of " + l.Hostname); err != nil {
		return err
	}
	dir := filepath.Join(h.o.Dir, strconv.Itoa(number))
	o := APIProxyOptions{
		Dir: filepath.Join(dir, "proxy"), Hostname: l.Hostname,
		Authority: l.Authority, Root: h.Root, Parent: parent, MaxTempFile: h.o.MaxTempFile,
	}
	h.Layers = append(h.Layers, l)
	if module != nil {
		if l.Module, err = h.module(ctx, l, filepath.Join(dir, "module"), parent, module); err != nil {
			return err
		}
		if l.Device, err = h.device(ctx, h.Root); err != nil {
			return err
		}
		up, _, err := h.plug(ctx, docker, l.Device)
		if err != nil {
			return err
		}
		hosts := map[string]netip.Addr{"registry": up}
		if parent == "" {
			if err := h.blobs(l.Device, hosts); err != nil {
				return err
			}
			o.Blobs = blobService
		} else {
			o.Registry = "registry:8000"
		}
		if err := l.Device.Names(hosts); err != nil {
			return err
		}
	}
	o.Device = l.Device
	if l.Proxy, err = StartAPIProxy(ctx, o); err != nil {
		return err
	}
	h.close = append(h.close, func() error { return l.Proxy.Stop() }) // which may be another process by then
	return nil
}

// blobs starts the blob service beside the top's API proxy.
func (h *Hierarchy) blobs(d *Device, hosts map[string]netip.Addr) error {
	host, port, err := net.SplitHostPort(blobService)
	if err != nil {
		return err
	}
	hosts[host] = netip.AddrFrom4([4]byte{127, 0, 0, 2})
	listener, err := d.Listen("tcp", net.JoinHostPort(hosts[host].String(), port))
	if err != nil {
		return err
	}
	h.Blobs = StartBlobStub(listener)
	h.close = append(h.close, h.Blobs.Close)
	return nil
}

// module starts a module at :8000, with its admin listener at :5001. This machine
// reaches both at other addresses.
func (h *Hierarchy) module(ctx context.Context, l *Layer, dir, parent string, settings Env) (*Server, error) {
	d := l.Docker
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	l.dir = dir
	if err := errors.Join(h.Root.Write(filepath.Join(dir, "root.pem")), l.Authority.Write(filepath.Join(dir, "edge.pem")), l.Revoke()); err != nil {
		return nil, err
	}
	if _, err := l.certify(); err != nil {
		return nil, err
	}
	s := &Server{Data: filepath.Join(dir, "data")}
	for outer, inner := range map[*string]string{&s.Addr: "127.0.0.1:8000", &s.Admin: "127.0.0.1:5001"} {
		addr, err := FreeAddr()
		if err != nil {
			return nil, err
		}
		if err := d.PublishAs(addr, inner); err != nil {
			return nil, err
		}
		*outer = addr
	}
	env := Env{
		"REGISTRY_HTTP_ADDR":                        ":8000",
		"REGISTRY_HTTP_DEBUG_ADDR":                  ":5001",
		"REGISTRY_LOG_ACCESSLOG_SAMPLE":             "100%",
		"REGISTRY_HTTP_SECRET":                      "lab",
		"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": s.Data,
	}
	if h.o.Runtime {
		given, err := h.runtime(l, dir, parent)
		if err != nil {
			return nil, err
		}
		maps.Copy(env, given)
	}
	maps.Copy(env, settings)
	path, args, err := d.Enter(h.o.Binary, "serve")
	if err != nil {
		return nil, err
	}
	s.Process, err = Start(ctx, Spec{
		Name: "registry-module", Path: path, Args: args, Dir: dir, Env: env,
		Ready: AnswersHTTP("http://"+s.Admin+"/healthz", 200),
	})
	if err != nil {
		return nil, err
	}
	h.close = append(h.close, func() error { return s.Stop() }) // which may be another process by then
	return s, nil
}

// runtime starts the workload API of a layer, and returns the environment of its module.
func (h *Hierarchy) runtime(l *Layer, dir, parent string) (env Env, err error) {
	if l.Workload, env, err = startWorkloadAPI(l, h.Root, h.o.CertificateLife, dir, parent); err != nil {
		return nil, err
	}
	h.close = append(h.close, l.Workload.Close)
	return env, nil
}

// Bottom is a device that has clients, and nothing below it.
type Bottom struct {
	*Device
	// Parent is the layer above as its manifests have it for $upstream:8000.
	Parent string
}

// Bottom adds a device below a layer. Where it is direct, its parent is not the layer's
// API proxy, but the module's own port.
func (h *Hierarchy) Bottom(ctx context.Context, parent *Layer, direct bool) (*Bottom, error) {
	d, err := h.device(ctx, h.Root)
	if err != nil {
		return nil, err
	}
	above := parent.Device
	if direct {
		above = parent.Docker
	}
	up, _, err := h.plug(ctx, above, d)
	if err != nil {
		return nil, err
	}
	return &Bottom{d, parent.Registry()}, d.Names(map[string]netip.Addr{parent.Hostname: up})
}

// Close ends all of it.
func (h *Hierarchy) Close() error {
	var errs []error
	for i := len(h.close) - 1; i >= 0; i-- {
		errs = append(errs, h.close[i]())
	}
	h.close = nil
	return errors.Join(errs...)
}

// Tail returns the last lines of what its processes have written.
func (h *Hierarchy) Tail(lines int) string {
	var text string
	for _, l := range h.Layers {
		if l.Module != nil && l.Module.Process != nil {
			text += l.Module.Tail(lines) + "\n"
		}
		if l.Proxy != nil && l.Proxy.Process != nil {
			text += l.Proxy.Tail(lines) + "\n"
		}
	}
	return text
}
