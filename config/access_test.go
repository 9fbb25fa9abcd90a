package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestAccessSettings(t *testing.T) {
	certificate, key := newKeyPair(t)
	file := filepath.Join(t.TempDir(), "policy.yml")
	if err := os.WriteFile(file, []byte("rules: []"), 0o600); err != nil {
		t.Fatal(err)
	}
	tls := []string{"REGISTRY_HTTP_TLS_CERTIFICATE=" + certificate, "REGISTRY_HTTP_TLS_KEY=" + key}
	mtls := slices.Clip(append(tls, "REGISTRY_HTTP_TLS_CLIENTCAS=["+certificate+"]"))
	device := []string{"IOTEDGE_WORKLOADURI=unix:///var/run/iotedge/workload.sock", "IOTEDGE_PARENTHOSTNAME=Parent.example.com"}
	for name, tt := range map[string]struct {
		text    string
		environ []string
		want    string // of what is read
		wrong   []string
	}{
		"none":                {want: " [] false"},
		"policy":              {environ: []string{"REGISTRY_ACCESS_POLICY=" + file}, want: file + " [] false"},
		"file":                {text: "version: 0.1\naccess: {policy: " + file + "}", want: file + " [] false"},
		"no policy":           {environ: []string{"REGISTRY_ACCESS_POLICY=/none"}, wrong: []string{`REGISTRY_ACCESS_POLICY (access.policy): "/none" cannot be read`}},
		"TLS":                 {environ: tls, want: " [] false"},
		"client certificates": {environ: mtls, want: " [] false"},
		"required":            {environ: append(mtls, "REGISTRY_HTTP_TLS_CLIENTAUTH=require-any-client-cert"), want: " [] false"},
		"if given":            {environ: append(mtls, "REGISTRY_HTTP_TLS_CLIENTAUTH=verify-client-cert-if-given"), want: " [] false"},
		"requested":           {environ: append(mtls, "REGISTRY_HTTP_TLS_CLIENTAUTH=request-client-cert"), want: " [] false"},
		"revoked":             {environ: append(mtls, "REGISTRY_ACCESS_CRLS="+file), want: " [" + file + "] false"},
		"revoked, no file":    {environ: append(mtls, "REGISTRY_ACCESS_CRLS=/none"), wrong: []string{`REGISTRY_ACCESS_CRLS (access.crls): "/none" cannot be read`}},
		"revoked, of nobody":  {environ: append(tls, "REGISTRY_ACCESS_CRLS="+file), wrong: []string{"REGISTRY_ACCESS_CRLS (access.crls)", "http.tls.clientcas"}},
		"clients without TLS": {environ: []string{"REGISTRY_HTTP_TLS_CLIENTCAS=[" + certificate + "]"}, wrong: []string{"REGISTRY_HTTP_TLS_CLIENTCAS (http.tls.clientcas)", "http.tls.certificate"}},
		"from the device":     {environ: append(device, "REGISTRY_IOTEDGE_SERVERCERTIFICATE=true"), want: " [] true"},
		"no device":           {environ: []string{"REGISTRY_IOTEDGE_SERVERCERTIFICATE=true"}, wrong: []string{"REGISTRY_IOTEDGE_SERVERCERTIFICATE (iotedge.servercertificate)", "IOTEDGE_WORKLOADURI"}},
		"two certificates":    {environ: append(append(device, tls...), "REGISTRY_IOTEDGE_SERVERCERTIFICATE=true"), wrong: []string{"REGISTRY_IOTEDGE_SERVERCERTIFICATE (iotedge.servercertificate)", "http.tls.certificate"}},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := loadWith(t, tt.text, tt.environ...)
			if err == nil {
				if got := fmt.Sprintf("%s %s %v", c.AccessPolicy, c.AccessCRLs, c.ServerCertificate); got != tt.want {
					t.Errorf("%q, want %q", got, tt.want)
				}
			}
			wantProblems(t, err, tt.wrong)
		})
	}
}

// wantProblems checks that an error says all of want, or that there is none.
func wantProblems(t *testing.T, err error, want []string) {
	t.Helper()
	if want == nil && err != nil {
		t.Fatal(err)
	}
	for _, text := range want {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v, want %s", err, text)
		}
	}
}

// The device above is named by IoT Edge, and so are its authorities.
func TestDeviceAbove(t *testing.T) {
	const workload, parent = "IOTEDGE_WORKLOADURI=unix:///workload.sock", "IOTEDGE_PARENTHOSTNAME=Parent.example.com"
	for name, tt := range map[string]struct {
		environ []string
		want    string
		wrong   []string
	}{
		"named":             {[]string{"REGISTRY_PROXY_REMOTEURL=https://$upstream:8000", parent, workload}, "https://parent.example.com:8000 true", nil},
		"without scheme":    {[]string{"REGISTRY_PROXY_REMOTEURL=$upstream:8000", parent, workload}, "https://parent.example.com:8000 true", nil},
		"without port":      {[]string{"REGISTRY_PROXY_REMOTEURL=$upstream", parent, workload}, "https://parent.example.com true", nil},
		"by http":           {[]string{"REGISTRY_PROXY_REMOTEURL=http://$upstream:8000/", parent}, "http://parent.example.com:8000 false", nil},
		"not trusted":       {[]string{"REGISTRY_PROXY_REMOTEURL=$upstream:8000", "REGISTRY_PROXY_TRUSTBUNDLE=false", parent, workload}, "https://parent.example.com:8000 false", nil},
		"trusted":           {[]string{"REGISTRY_PROXY_REMOTEURL=a.example.com", "REGISTRY_PROXY_TRUSTBUNDLE=true", workload}, "https://a.example.com true", nil},
		"another one":       {[]string{"REGISTRY_PROXY_REMOTEURL=a.example.com", parent, workload}, "https://a.example.com false", nil},
		"nobody above":      {[]string{"REGISTRY_PROXY_REMOTEURL=$upstream:8000", workload}, "", []string{"REGISTRY_PROXY_REMOTEURL (proxy.remoteurl)", "IOTEDGE_PARENTHOSTNAME"}},
		"nobody to ask":     {[]string{"REGISTRY_PROXY_REMOTEURL=a.example.com", "REGISTRY_PROXY_TRUSTBUNDLE=true"}, "", []string{"REGISTRY_PROXY_TRUSTBUNDLE (proxy.trustbundle)", "IOTEDGE_WORKLOADURI"}},
		"something like it": {[]string{"REGISTRY_PROXY_REMOTEURL=https://$upstreams", parent}, "", []string{"REGISTRY_PROXY_REMOTEURL (proxy.remoteurl)", "not allowed"}},
		"no name":           {[]string{"REGISTRY_PROXY_REMOTEURL=$upstream:8000", "IOTEDGE_PARENTHOSTNAME=a b"}, "", []string{"REGISTRY_PROXY_REMOTEURL (proxy.remoteurl)", "cannot be used"}},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := loadWith(t, "", tt.environ...)
			if err == nil {
				if got := fmt.Sprint(c.Remotes[0].URL, c.Remotes[0].TrustBundle); got != tt.want {
					t.Errorf("%s, want %s", got, tt.want)
				}
			}
			wantProblems(t, err, tt.wrong)
		})
	}
}

// A remote whose callers are asked about there is the only one that a name can mean.
func TestPassThroughSettings(t *testing.T) {
	const first, second = "REGISTRY_PROXY_REMOTEURL=a.example.com", "REGISTRY_PROXY_REMOTEURL_2=b.example.com"
	for name, tt := range map[string]struct {
		environ []string
		want    string
		wrong   []string
	}{
		"off":              {[]string{first}, "false 10m0s 168h0m0s", nil},
		"on":               {[]string{first, "REGISTRY_PROXY_PASSTHROUGH=true"}, "true 10m0s 168h0m0s", nil},
		"times":            {[]string{first, "REGISTRY_PROXY_PASSTHROUGH=true", "REGISTRY_PROXY_PASSTHROUGHTTL=1m", "REGISTRY_PROXY_PASSTHROUGHGRACE=0"}, "true 1m0s 0s", nil},
		"the only default": {[]string{first, second, "REGISTRY_PROXY_PASSTHROUGH=true"}, "true 10m0s 168h0m0s", nil},
		"no default":       {[]string{first, second, "REGISTRY_PROXY_PASSTHROUGH=true", "REGISTRY_PROXY_DEFAULT=false", "REGISTRY_PROXY_DEFAULT_2=true"}, "true 10m0s 168h0m0s", nil},
		"one of two":       {[]string{first, second, "REGISTRY_PROXY_PASSTHROUGH=true", "REGISTRY_PROXY_DEFAULT_2=true"}, "", []string{"REGISTRY_PROXY_PASSTHROUGH (proxy.passthrough)", "b.example.com"}},
		"no time":          {[]string{first, "REGISTRY_PROXY_PASSTHROUGHTTL=0"}, "", []string{"REGISTRY_PROXY_PASSTHROUGHTTL (proxy.passthroughttl)"}},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := loadWith(t, "", tt.environ...)
			if err == nil {
				r := c.Remotes[0]
				if got := fmt.Sprint(r.PassThrough, r.PassThroughTTL, r.PassThroughGrace); got != tt.want {
					t.Errorf("%s, want %s", got, tt.want)
				}
			}
			wantProblems(t, err, tt.wrong)
		})
	}
}
