package config

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/distribution/distribution/v3/configuration"
)

// TestDocumentHasTheStockFields makes sure that what a new version of
// distribution adds is noticed.
func TestDocumentHasTheStockFields(t *testing.T) {
	ours := map[string]field{}
	for _, f := range fieldsOf(reflect.TypeFor[document]()) {
		ours[f.variable] = f
	}
	for _, stock := range fieldsOf(reflect.TypeFor[configuration.Configuration]()) {
		got, ok := ours[stock.variable]
		if !ok || got.key != stock.key {
			t.Errorf("%s (%s) is missing in document: add it", stock.variable, stock.key)
			continue
		}
		switch stock.variable {
		case "STORAGE", "AUTH", "PROXY", "LOG": // types of ours
		default:
			if got.typ != stock.typ {
				t.Errorf("%s has type %v, want %v", stock.variable, got.typ, stock.typ)
			}
		}
	}
	for ours, theirs := range map[reflect.Type]reflect.Type{
		reflect.TypeFor[proxySection]():     reflect.TypeFor[configuration.Proxy](),
		reflect.TypeFor[logSection]():       reflect.TypeFor[configuration.Log](),
		reflect.TypeFor[accessLogSection](): reflect.TypeFor[configuration.AccessLog](),
	} {
		keys := map[string]string{}
		for _, f := range fieldsOf(ours) {
			keys[f.variable] = f.key
		}
		for _, stock := range fieldsOf(theirs) {
			if keys[stock.variable] != stock.key {
				t.Errorf("%s (%s) is missing in %v: add it", stock.variable, stock.key, ours)
			}
		}
	}
}

// TestSameAsStock compares what this package makes of files and variables with
// what the stock parser makes of them. Not in it is what the stock parser drops
// or panics on, and what works here: elements of lists of text by their index,
// and settings below storage.maintenance.readonly.
func TestSameAsStock(t *testing.T) {
	const minimal = "version: 0.1\nstorage: filesystem\n"
	environments := map[string][]string{
		"none": nil,
		"scalars": {
			"REGISTRY_LOG_LEVEL=error", "REGISTRY_LOG_ACCESSLOG_DISABLED=true", "REGISTRY_HTTP_ADDR=:1", "REGISTRY_HTTP_NET=tcp",
			"REGISTRY_HTTP_SECRET=0123", "REGISTRY_HTTP_DRAINTIMEOUT=5s", "REGISTRY_CATALOG_MAXENTRIES=7", "REGISTRY_TAGS_MAXTAGS=8",
			"REGISTRY_HEALTH_STORAGEDRIVER_INTERVAL=20s", "REGISTRY_LOGLEVEL=debug", "REGISTRY_VALIDATION_DISABLED=true",
		},
		"maps": {
			"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=/x", "REGISTRY_STORAGE_FILESYSTEM_MAXTHREADS=7", "REGISTRY_STORAGE_DELETE_ENABLED=true",
			"REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR=inmemory", "REGISTRY_LOG_FIELDS_SITE=ship 7", "REGISTRY_LOG_FIELDS_SERVICE=x",
			"REGISTRY_AUTH_HTPASSWD_REALM=r", "REGISTRY_AUTH_HTPASSWD_PATH=/htpasswd",
			"REGISTRY_HTTP_HEADERS_X-FRAME=[deny]",
		},
		"sections": {
			"REGISTRY_STORAGE={filesystem: {rootdirectory: /y}, tag: {concurrencylimit: 3}}", "REGISTRY_STORAGE_FILESYSTEM_MAXTHREADS=30",
			"REGISTRY_HTTP={addr: ':2', debug: {addr: ':3'}}", "REGISTRY_AUTH=none", "REGISTRY_LOG_FIELDS={a: 1}",
			"REGISTRY_STORAGE_MAINTENANCE={uploadpurging: {enabled: false}}",
		},
		"lists": {
			"REGISTRY_NOTIFICATIONS_ENDPOINTS_0_NAME=a", "REGISTRY_NOTIFICATIONS_ENDPOINTS_0_URL=http://a",
			"REGISTRY_NOTIFICATIONS_ENDPOINTS_0_IGNORE_ACTIONS=[pull]",
			"REGISTRY_NOTIFICATIONS_EVENTCONFIG_INCLUDEREFERENCES=true", "REGISTRY_HEALTH_TCPCHECKERS_0_ADDR=a:1",
			"REGISTRY_VALIDATION_MANIFESTS_INDEXES_PLATFORMS=none", "REGISTRY_POLICY_REPOSITORY_CLASSES=[image, plugin]",
		},
		"empty": {
			"REGISTRY_HTTP_ADDR=:1", "REGISTRY_HTTP_SECRET=", "REGISTRY_LOG_FORMATTER=", "REGISTRY_HTTP_DEBUG_ADDR=:2", "REGISTRY_HTTP_HOST=null",
		},
	}
	files := map[string]string{"minimal": minimal}
	paths, err := filepath.Glob("testdata/stock/*.yml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no sample files: %v", err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files[filepath.Base(path)] = string(text)
	}
	for fileName, file := range files {
		for envName, environ := range environments {
			t.Run(fileName+"/"+envName, func(t *testing.T) {
				got := mustLoad(t, file, environ...).Stock
				for _, entry := range environ {
					name, value, _ := strings.Cut(entry, "=")
					t.Setenv(name, value)
				}
				want, err := configuration.Parse(bytes.NewReader([]byte(file)))
				if err != nil {
					t.Fatal(err)
				}
				// What differs on purpose: defaults, and what the app must
				// not see.
				want.Proxy = configuration.Proxy{}
				if want.HTTP.Addr == "" {
					want.HTTP.Addr = DefaultAddr
				}
				if want.HTTP.Net == "" {
					want.HTTP.Net = "tcp"
				}
				if want.HTTP.Debug.Addr == "" {
					want.HTTP.Debug.Addr = DefaultAdminAddr
				}
				if want.Storage["filesystem"]["rootdirectory"] == nil {
					if want.Storage["filesystem"] == nil {
						want.Storage["filesystem"] = configuration.Parameters{}
					}
					want.Storage["filesystem"]["rootdirectory"] = DefaultDataDir
				}
				if !reflect.DeepEqual(got, want) {
					t.Errorf("got  %+v\nwant %+v", got, want)
				}
			})
		}
	}
}

func TestStockProxy(t *testing.T) {
	text, err := os.ReadFile("testdata/stock/proxy.yml")
	if err != nil {
		t.Fatal(err)
	}
	c := mustLoad(t, string(text))
	r := c.Remotes[0]
	if len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], "health (file, tcp)") {
		t.Errorf("warnings: %q", c.Warnings)
	}
	if len(c.Remotes) == 0 || r.URL.String() != "https://registry-1.docker.io" ||
		r.Credentials.Username != "robot" || string(r.Credentials.Password) != "1234" || r.TTL.Hours() != 168 || c.DataDir != "/data" || c.Addr != "0.0.0.0:5000" {
		t.Errorf("got %+v", c)
	}
}
