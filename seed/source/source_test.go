package source

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"registry-module/seed"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const sum = "sha256:6c3c624b58dbbcd3c0dd82b4c53f04194d1247c6eebdaab7c610cf7d66709b3b"

// variables are those of the tests.
func variables(name string) (string, bool) {
	value, ok := map[string]string{
		"REGISTRY":       "contoso.azurecr.io",
		"VISION_VERSION": "2.4",
		"EDGE_VERSION":   "1.5",
		"TAG":            "3",
		"EMPTY":          "",
		"SECRET":         "hunter2 and more",
		"DOLLAR":         "${TAG}",
		"upstream":       "wrong",
	}[name]
	return value, ok
}

// read reads text with the variables of the tests.
func read(text string) (Document, error) {
	return Read("f", strings.NewReader(text), Options{Lookup: variables})
}

// images are the wants of a document, each with its place.
func images(d Document) []string {
	var all []string
	for _, w := range d.Wants {
		all = append(all, w.Image+" <- "+w.From)
	}
	return all
}

// check compares texts, and shows both where they differ.
func check(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n  %s\nwant:\n  %s", what, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func TestFiles(t *testing.T) {
	for name, tt := range map[string]struct {
		kind             Kind
		images, warnings []string
	}{
		"images.txt": {List, []string{
			"mcr.microsoft.com/azureiotedge-agent:1.5 <- images.txt, line 3",
			"nginx <- images.txt, line 4; line 8",
			"$upstream:8000/team/app:1 <- images.txt, line 5",
			"quay.io/team/app:1@" + sum + " <- images.txt, line 6",
			"contoso.azurecr.io/line/app:1 <- images.txt, line 7",
		}, nil},
		"deployment.json": {IoTEdge, []string{
			"mcr.microsoft.com/azureiotedge-agent:1.5 <- deployment.json, module edgeAgent",
			"mcr.microsoft.com/azureiotedge-hub:1.5 <- deployment.json, module edgeHub",
			"mcr.microsoft.com/azureiotedge-api-proxy:1.1 <- deployment.json, module IoTEdgeAPIProxy",
			"contoso.azurecr.io/tools/registry-module:1.0 <- deployment.json, module registry",
			"mcr.microsoft.com/azureiotedge-simulated-temperature-sensor:1.5 <- deployment.json, module SimulatedTemperatureSensor",
			"mcr.microsoft.com/azureiotedge-metrics-collector:1.1 <- deployment.json, module MetricsCollector",
			"contoso.azurecr.io/line/controller@" + sum + " <- deployment.json, module line.controller",
			"$upstream:8000/line/vision:2.4 <- deployment.json, module vision",
		}, nil},
		"layered.json": {IoTEdge, []string{
			"contoso.azurecr.io/line/vision:2.0 <- layered.json, module vision",
			"contoso.azurecr.io/line/controller:2.1 <- layered.json, module line.controller",
			"contoso.azurecr.io/line/sensor:3 <- layered.json, module sensor",
			"mcr.microsoft.com/azureiotedge-hub:1.5.19 <- layered.json, module edgeHub",
		}, nil},
		"deployment.template.json": {IoTEdge, []string{
			"mcr.microsoft.com/azureiotedge-agent:1.5 <- deployment.template.json, module edgeAgent",
			"mcr.microsoft.com/azureiotedge-hub:1.5 <- deployment.template.json, module edgeHub",
			"contoso.azurecr.io/line/vision:1 <- deployment.template.json, module vision",
		}, nil},
		"compose.yml": {Compose, []string{
			"nginx:1.27 <- compose.yml, service web",
			"contoso.azurecr.io/line/worker:3 <- compose.yml, service worker; service second-worker",
			"quay.io/line/both:1 <- compose.yml, service both",
			"docker.io/library/alpine <- compose.yml, service model",
			"quay.io/line/model:7 <- compose.yml, service model, volume",
		}, []string{
			"compose.yml, line 8: what it includes is not read: give those files, too, with -f",
			"compose.yml, line 21, service built: is built from a Dockerfile and names no image: it is left out",
			"compose.yml, line 25, service both: is built from a Dockerfile, too: its image has to be in its registry to be seeded",
			"compose.yml, line 28, service elsewhere: extends a service of \"base.yml\", which is not read: give that file, too, with -f",
		}},
		"kubernetes.yml": {Kubernetes, []string{
			"busybox:1.36 <- kubernetes.yml, Deployment line/web, container prepare; Deployment line/web, container sidecar",
			"registry.k8s.io/nginx:1.27@" + sum + " <- kubernetes.yml, Deployment line/web, container nginx",
			"quay.io/line/model:7 <- kubernetes.yml, Deployment line/web",
			"quay.io/line/shell:1 <- kubernetes.yml, Pod debug, container shell",
			"quay.io/line/clean:1 <- kubernetes.yml, CronJob clean-, container",
			"ghcr.io/cloudnative-pg/postgresql:17 <- kubernetes.yml, Cluster db",
			"quay.io/prometheus/prometheus:v3 <- kubernetes.yml, Prometheus p",
			"quay.io/thanos/thanos:1.10 <- kubernetes.yml, Prometheus p",
			"quay.io/line/backup:2 <- kubernetes.yml, Prometheus p, variable RELATED_IMAGE_BACKUP",
		}, []string{
			`kubernetes.yml, line 69, Prometheus p: "team/untagged" has no tag, which is the chart's to choose: it is left out; render the chart with helm template`,
			`kubernetes.yml, line 71, Prometheus p: "A picture of it" is left out: it has a space in it: write one image, for example quay.io/team/app:1.2`,
		}},
		"kubernetes.json": {Kubernetes, []string{
			"quay.io/line/app:1 <- kubernetes.json, Pod a, container app",
			"quay.io/line/app:2 <- kubernetes.json, Pod b, container app",
		}, nil},
		"seed.yml": {SeedFile, []string{
			"mcr.microsoft.com/azureiotedge-agent:1.5 <- seed.yml, line 9",
			"docker.io/library/nginx <- seed.yml, line 10",
			"contoso.azurecr.io/line/app:1 <- seed.yml, line 15",
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			file, err := os.Open(filepath.Join("testdata", name))
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			d, err := Read(name, file, Options{Lookup: variables})
			if err != nil {
				t.Fatal(err)
			}
			if d.Kind != tt.kind {
				t.Errorf("it is read as %q", d.Kind)
			}
			check(t, "images", images(d), tt.images)
			check(t, "warnings", d.Warnings, tt.warnings)
		})
	}
}

// TestForms is about what is the same as in a file of testdata, written otherwise.
func TestForms(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		kind Kind
		want string // images, with spaces in between
	}{
		"one image":               {"nginx", List, "nginx"},
		"list of images in YAML":  {"- nginx:1\n- quay.io/a/b:2 # two\n", List, "nginx:1 quay.io/a/b:2"},
		"list of images in JSON":  {`["nginx:1", "quay.io/a/b:2"]`, List, "nginx:1 quay.io/a/b:2"},
		"list in UTF-16":          {"\xff\xfen\x00g\x00i\x00n\x00x\x00\r\x00\n\x00a\x00:\x001\x00", List, "nginx a:1"},
		"list in big-endian":      {"\xfe\xff\x00n\x00g\x00i\x00n\x00x", List, "nginx"},
		"host with port":          {"localhost:5000/a", List, "localhost:5000/a"},
		"tabs":                    {"\ta:1\t# x\n", List, "a:1"},
		"manifest in YAML":        {"modulesContent:\n  $edgeAgent:\n    properties.desired:\n      modules: {a: {settings: {image: 'b:1'}}}\n", IoTEdge, "b:1"},
		"layered, all modules":    {`{"modulesContent":{"$edgeAgent":{"properties.desired.modules":{"a":{"settings":{"image":" b:1 "}},"c":{"env":{}}}}}}`, IoTEdge, "b:1"},
		"layered, other twins":    {`{"modulesContent":{"a":{"properties.desired.x":1}}}`, IoTEdge, ""},
		"upstream without port":   {`{"modulesContent":{"$edgeAgent":{"properties.desired":{"modules":{"a":{"settings":{"image":"$upstream/b:1"}}}}}}}`, IoTEdge, "$upstream/b:1"},
		"variable called so":      {`{"modulesContent":{"$edgeAgent":{"properties.desired":{"modules":{"a":{"settings":{"image":"x/${upstream}:1"}}}}}}}`, IoTEdge, "x/wrong:1"},
		"compose in JSON":         {`{"services": {"a": {"image": "b:1"}}}`, Compose, "b:1"},
		"compose, parent":         {"services: {a: {image: '$upstream:8000/b:1'}}", Compose, "$upstream:8000/b:1"},
		"compose, defaults":       {"services: {a: {image: 'a:${NONE:-${NEITHER-1}}'}, b: {image: 'b:${EMPTY-2}$TAG'}, c: {image: 'c:${EMPTY:-4}'}, d: {image: 'd${TAG:+:5}${NONE+:6}'}}", Compose, "a:1 b:3 c:4 d:5"},
		"a value is no template":  {"services: {a: {image: 'a:${TAG}'}}", Compose, "a:3"},
		"compose, merged list":    {"services:\n  x: &x {image: a:1}\n  y: {<<: [{restart: always}, *x], image: b:1}\n  z: {<<: *x}\n", Compose, "a:1 b:1"},
		"compose, merged service": {"x: &x\n  y: {image: a:1}\n  w: {image: c:1}\nservices:\n  <<: *x\n  y: {image: b:1}\n", Compose, "b:1 c:1"},
		"only services to build":  {"services: {a: {build: .}}", Compose, ""},
		"objects in JSON":         {`{"apiVersion":"v1","kind":"Pod","spec":{"containers":[{"image":"a:1"}]}}` + "\n" + `{"apiVersion":"v1","kind":"Pod","spec":{"containers":[{"image":"b:1"}]}}`, Kubernetes, "a:1 b:1"},
		"object without images":   {"apiVersion: v1\nkind: Namespace\n", Kubernetes, ""},
		"object behind a heading": {"NAME: x\nMANIFEST:\n---\napiVersion: v1\nkind: Pod\nspec: {containers: [{image: 'a:1'}]}\n", Kubernetes, "a:1"},
		"seed file in braces":     {"{version: 1, images: [a, {image: b:1}]}", SeedFile, "a b:1"},
		"seed file in JSON":       {`{"version": 1, "images": ["a", {"image": "b:1"}]}`, SeedFile, "a b:1"},
		"seed file, CRLF":         {"version: 1\r\nimages:\r\n- a\r\n", SeedFile, "a"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := read(tt.text)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, w := range d.Wants {
				got = append(got, w.Image)
			}
			if strings.Join(got, " ") != tt.want || d.Kind != tt.kind {
				t.Errorf("%q: %q, want %q: %q", d.Kind, got, tt.kind, tt.want)
			}
			if len(got) == 0 && !strings.Contains(strings.Join(d.Warnings, "\n"), "names no image") {
				t.Errorf("no warning that there is none: %q", d.Warnings)
			}
		})
	}
}

func TestOncePerOptions(t *testing.T) {
	d, err := read("version: 1\nimages: [a, a, {image: a}, {image: a, pin: false}, {image: a, tags: {}}, {image: a, tags: {newest: 2}},\n" +
		"  {image: a, platforms: [linux/amd64, linux/arm64]}, {image: a, platforms: [linux/arm64, linux/amd64]}, {image: a, referrers: false}]\n")
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Wants) != 6 {
		t.Errorf("%d wants: %+v", len(d.Wants), d.Wants)
	}
	d, err = read(strings.Repeat("a\n", 9))
	if want := "f, line 1; line 2; line 3; line 4; line 5; and 4 more"; err != nil || len(d.Wants) != 1 || d.Wants[0].From != want {
		t.Errorf("%+v, %v", d.Wants, err)
	}
}

func TestSeedFile(t *testing.T) {
	file, err := os.Open("testdata/seed.yml")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var tags []seed.Tags
	d, err := Read("f", file, Options{
		Lookup:    variables,
		CheckTags: func(t seed.Tags) error { tags = append(tags, t); return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	check(t, "schedule", d.Schedule, []string{"0 2 * * *"})
	if d.Prune == nil || !*d.Prune {
		t.Errorf("prune is %v", d.Prune)
	}
	agent, nginx := d.Wants[0], d.Wants[1]
	if agent.Bare || agent.Loose || agent.Tags != nil {
		t.Errorf("agent: %+v", agent)
	}
	check(t, "platforms of the agent", agent.Platforms, []string{"linux/arm64"})
	check(t, "platforms of nginx", nginx.Platforms, []string{"linux/amd64", "linux/arm/v7"})
	if !nginx.Bare || !nginx.Loose || nginx.Tags == nil {
		t.Fatalf("nginx: %+v", nginx)
	}
	check(t, "glob", nginx.Tags.Glob, []string{"1.27*"})
	if nginx.Tags.SemVer != ">=1.2 <2" || nginx.Tags.Regexp != `v?1\..*` || nginx.Tags.Newest != 3 {
		t.Errorf("tags: %+v", nginx.Tags)
	}
	if len(tags) != 1 || tags[0].Newest != 3 {
		t.Errorf("checked: %+v", tags)
	}

	d, err = read("version: 1\nschedule: ['0 2 * * *', '*/5 8-17 * * mon-fri']\nreferrers: false\npin: false\nimages: [a, {image: b, pin: true, referrers: true, tags: {glob: x*}}]\n")
	if err != nil {
		t.Fatal(err)
	}
	check(t, "schedule", d.Schedule, []string{"0 2 * * *", "*/5 8-17 * * mon-fri"})
	if a, b := d.Wants[0], d.Wants[1]; !a.Bare || !a.Loose || b.Bare || b.Loose || d.Prune != nil || a.Platforms != nil || b.Tags.Glob[0] != "x*" {
		t.Errorf("%+v", d)
	}
}
