package lab

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"
)

// APIProxyModule is the module's name, by which the proxy of a layer checks that of
// the layer above.
const APIProxyModule = "IoTEdgeAPIProxy"

// APIProxyPort is where it listens.
const APIProxyPort = "8000"

// APIProxyOptions says what an [APIProxy] does.
type APIProxyOptions struct {
	// Dir is an empty directory, Device is where it runs, Hostname is that of its
	// layer.
	Dir      string
	Device   *Device
	Hostname string
	// Authority is what signs its certificate, Root what it trusts.
	Authority, Root *Authority
	// Parent is the host name of the layer above. Where it is empty, what is for the
	// registry goes to registry:8000, and what is for the blob service to Blobs
	// (host:port).
	Parent string
	Blobs  string
	// Registry takes the place of the parent for what is for a registry: host:port of
	// a registry module of the layer itself. Empty is none.
	Registry string
	// MaxTempFile is how much of an answer it takes ahead of a slow client; empty is
	// 1024m, which is what nginx comes with.
	MaxTempFile string
}

// APIProxy is nginx that does what the API proxy module of IoT Edge does.
type APIProxy struct {
	*Process
	o   APIProxyOptions
	key crypto.Signer
}

// apiProxyConfig: the module passes on what begins with /v and one more character, to
// the registry as it came. What has the header of the blob service goes there.
const apiProxyConfig = `
daemon off;
{{.User}}
worker_processes 1;
pid nginx.pid;
error_log stderr error;
events {
	worker_connections 512;
}
http {
	access_log access.log combined;
	client_body_temp_path body;
	proxy_temp_path proxy;
	fastcgi_temp_path fastcgi;
	uwsgi_temp_path uwsgi;
	scgi_temp_path scgi;
	client_max_body_size 1m;
	client_header_timeout 60s;
	client_body_timeout 60s;
	send_timeout 60s;
	proxy_connect_timeout 60s;
	proxy_send_timeout 60s;
	proxy_read_timeout 3600s;
	proxy_buffering on;
	proxy_max_temp_file_size {{.MaxTempFile}};
	proxy_http_version 1.1;
	proxy_ssl_verify on;
	proxy_ssl_verify_depth 7;
	proxy_ssl_trusted_certificate root.pem;
	proxy_ssl_name {{.Module}};
	resolver 127.0.0.11;
	map $http_x_ms_version $blob {
		default yes;
		"" "";
	}
	server {
		listen {{.Port}} ssl;
		ssl_protocols TLSv1.2;
		ssl_certificate server.pem;
		ssl_certificate_key server.key;
		error_page 418 = @blob;
		if ($blob) {
			return 418;
		}
		location ~ ^/v2*. {
			set $registry "{{.ToRegistry}}";
			proxy_pass $registry$request_uri;
		}
		location @blob {
			set $storage "{{.ToBlobs}}";
			proxy_pass $storage$request_uri;
		}
	}
}
`

// StartAPIProxy starts it.
func StartAPIProxy(ctx context.Context, o APIProxyOptions) (*APIProxy, error) {
	nginx, err := System("nginx", "nginx-light")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("starting an API proxy: %w", err)
	}
	parent := "https://" + o.Parent + ":" + APIProxyPort
	registry, blobs := parent, parent
	if o.Parent == "" {
		registry, blobs = "http://registry:8000", "http://"+o.Blobs
	}
	if o.Registry != "" {
		registry = "http://" + o.Registry
	}
	form, err := template.New("nginx.conf").Parse(apiProxyConfig)
	if err != nil {
		return nil, fmt.Errorf("starting an API proxy: %w", err)
	}
	var text bytes.Buffer
	if err := form.Execute(&text, map[string]string{
		"User": userDirective(), "Module": APIProxyModule, "Port": APIProxyPort,
		"MaxTempFile": cmp.Or(o.MaxTempFile, "1024m"), "ToRegistry": registry, "ToBlobs": blobs,
	}); err != nil {
		return nil, fmt.Errorf("starting an API proxy: %w", err)
	}
	config := filepath.Join(o.Dir, "nginx.conf")
	if err := os.WriteFile(config, text.Bytes(), 0o644); err != nil {
		return nil, fmt.Errorf("starting an API proxy: %w", err)
	}
	if err := o.Root.Write(filepath.Join(o.Dir, "root.pem")); err != nil {
		return nil, fmt.Errorf("starting an API proxy: %w", err)
	}
	p := &APIProxy{o: o}
	if _, err := p.certify(); err != nil {
		return nil, fmt.Errorf("starting an API proxy: %w", err)
	}
	path, args, err := o.Device.Enter(nginx, "-p", o.Dir, "-c", config, "-e", "stderr")
	if err != nil {
		return nil, err
	}
	p.Process, err = Start(ctx, Spec{
		Name: "nginx", Path: path, Args: args, Dir: o.Dir,
		Ready: func(ctx context.Context) error {
			_, err := p.serial(ctx)
			return err
		},
	})
	return p, err
}

// certify writes a new certificate.
func (p *APIProxy) certify() (*Issued, error) {
	cert, err := p.o.Authority.Issue(Leaf{
		CommonName: p.o.Hostname, Names: []string{p.o.Hostname, APIProxyModule}, Key: p.key,
	})
	if err != nil {
		return nil, err
	}
	p.key = cert.Key
	return cert, cert.Write(filepath.Join(p.o.Dir, "server.pem"), filepath.Join(p.o.Dir, "server.key"))
}

func (p *APIProxy) serial(ctx context.Context) (string, error) {
	return p.o.Device.serial(ctx, p.o.Hostname, p.o.Root)
}

// serial is the number of the certificate that is shown at the port of the API.
func (d *Device) serial(ctx context.Context, hostname string, root *Authority) (string, error) {
	conn, err := d.DialContext(ctx, "tcp", "127.0.0.1:"+APIProxyPort)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	over := tls.Client(conn, &tls.Config{ServerName: hostname, RootCAs: root.Pool()})
	if err := over.HandshakeContext(ctx); err != nil {
		return "", err
	}
	return over.ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
}

// awaitSerial waits until a certificate is shown.
func awaitSerial(ctx context.Context, cert *Issued, shown func(context.Context) (string, error)) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		serial, err := shown(ctx)
		if err == nil && serial == cert.Cert.SerialNumber.String() {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("renewing a certificate: it shows the number %s, %w", serial, context.Cause(ctx))
		}
	}
}

// Renew gives it a new certificate, with the key that it has, and returns when it shows
// it. Connections that are open go on.
func (p *APIProxy) Renew(ctx context.Context) error {
	cert, err := p.certify()
	if err != nil {
		return fmt.Errorf("renewing a certificate: %w", err)
	}
	if err := p.Reload(); err != nil {
		return err
	}
	return awaitSerial(ctx, cert, p.serial)
}

// Access returns the lines of its access log.
func (p *APIProxy) Access() ([]string, error) {
	text, err := os.ReadFile(filepath.Join(p.o.Dir, "access.log"))
	if err != nil {
		return nil, fmt.Errorf("reading what an API proxy was asked: %w", err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n"), nil
}
