package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"registry-module/e2e/lab"
)

// nginxServer is a block of an nginx configuration: what its server does.
type nginxServer string

// nginxCache is the best that nginx does as a pull-through cache: one request
// at a time fills an entry, and the others wait for it.
func nginxCache(upstream string) nginxServer {
	return nginxServer(`
		location / {
			proxy_pass http://upstream;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_cache cache;
			proxy_cache_valid 200 1d;
			proxy_cache_lock on;
			proxy_cache_lock_age 10m;
			proxy_cache_lock_timeout 10m;
		}
	}
	upstream upstream {
		server ` + strings.TrimPrefix(upstream, "http://") + `;
		keepalive 16;
	`)
}

// nginxFiles serves the files below root as they are; those without a known
// extension get the media type.
func nginxFiles(root, mediaType string) nginxServer {
	return nginxServer(fmt.Sprintf("\n\t\troot %s;\n\t\tdefault_type %s;\n\t", root, mediaType))
}

// startNginx starts nginx in an empty directory.
func (b *bench) startNginx(ctx context.Context, dir string, block nginxServer) (*lab.Process, string, error) {
	addr, err := lab.FreeAddr()
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
	p, err := lab.Start(ctx, lab.Spec{
		Name: "nginx", Path: b.binaries[nginx], Dir: dir,
		Args:  []string{"-p", dir, "-c", config, "-e", "stderr"},
		Ready: lab.AnswersHTTP(url+"/v2/", http.StatusOK, http.StatusNotFound, http.StatusForbidden),
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
