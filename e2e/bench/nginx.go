package main

import (
	"fmt"
	"strings"

	"registry-module/e2e/lab"
)

// nginxProxy is the best that nginx does as a pull-through cache: one request
// at a time fills an entry, and the others wait for it.
func nginxProxy(upstream string) lab.NginxServer {
	return lab.NginxServer(`
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
func nginxFiles(root, mediaType string) lab.NginxServer {
	return lab.NginxServer(fmt.Sprintf("\n\t\troot %s;\n\t\tdefault_type %s;\n\t", root, mediaType))
}
