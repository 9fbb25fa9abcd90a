package lab

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
)

// NginxServer is what stands in the server block of an nginx configuration. What
// belongs to the http block can follow after a closing brace, but for the last.
type NginxServer string

// NginxProxy is nginx as the API proxy of a gateway: it passes everything on to
// another server at host:port, and its settings are those it comes with.
func NginxProxy(addr string) NginxServer {
	return NginxServer("location / { proxy_pass http://" + addr + "; }")
}

// StartNginx starts nginx in an empty directory, and returns its URL.
func StartNginx(ctx context.Context, dir string, block NginxServer) (*Process, string, error) {
	nginx, err := System("nginx", "nginx-light")
	if err != nil {
		return nil, "", err
	}
	addr, err := FreeAddr()
	if err != nil {
		return nil, "", err
	}
	config := filepath.Join(dir, "nginx.conf")
	// All that a distribution's default configuration would add is left out,
	// but sendfile and tcp_nopush, which it has.
	text := fmt.Sprintf(`
daemon off;
%[3]s
worker_processes auto;
pid nginx.pid;
error_log stderr warn;
events {
	worker_connections 1024;
}
http {
	access_log off;
	client_body_temp_path body;
	proxy_temp_path proxy;
	fastcgi_temp_path fastcgi;
	uwsgi_temp_path uwsgi;
	scgi_temp_path scgi;
	proxy_cache_path cache levels=1:2 keys_zone=cache:10m inactive=1d use_temp_path=off;
	sendfile on;
	tcp_nopush on;
	keepalive_requests 1000000000;
	server {
		listen %[1]s;
		%[2]s
	}
}
`, addr, block, userDirective())
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, "", fmt.Errorf("starting nginx: %w", err)
	}
	url := "http://" + addr
	p, err := Start(ctx, Spec{
		Name: "nginx", Path: nginx, Dir: dir,
		Args:  []string{"-p", dir, "-c", config, "-e", "stderr"},
		Ready: AnswersHTTP(url+"/v2/", http.StatusOK, http.StatusNotFound, http.StatusForbidden),
	})
	return p, url, err
}

// userDirective keeps the workers of an nginx that root starts from becoming
// somebody who cannot read the directory.
func userDirective() string {
	if os.Geteuid() == 0 {
		return "user root;"
	}
	return ""
}
