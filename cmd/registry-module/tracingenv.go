package main

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"golang.org/x/net/http/httpguts"

	"registry-module/config"
)

// tracingSettings are what the standard variables of OpenTelemetry say of traces. See
// https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ and
// https://opentelemetry.io/docs/specs/otel/protocol/exporter/
type tracingSettings struct {
	// endpoint is where spans are posted to; nil is that nothing is traced.
	endpoint *url.URL
	headers  map[string]string // secret
	timeout  time.Duration
	gzip     bool
	tls      *tls.Config
	sampler  sdktrace.Sampler
	resource []attribute.KeyValue
}

// defaultCollector is where a collector listens of which nothing is said.
const defaultCollector = "http://localhost:4318"

// otelEnv reads variables of OpenTelemetry, and collects what is wrong with them.
type otelEnv struct {
	getenv   func(string) string
	problems []*config.Problem
}

// readTracing reads the variables. All that is wrong with them is told at once, as
// [config.Errors]. Where they switch tracing off, or do not switch it on, the others are not
// looked at: some platforms give them to all programs.
func readTracing(getenv func(string) string) (tracingSettings, error) {
	e := &otelEnv{getenv: getenv}
	exporter := e.oneOf("OTEL_TRACES_EXPORTER", "", "otlp", "none")
	disabled := e.oneOf("OTEL_SDK_DISABLED", "false", "true", "false") == "true"
	_, endpoint := e.ofTraces("ENDPOINT")
	if on := endpoint != "" || exporter == "otlp"; len(e.problems) == 0 && (disabled || exporter == "none" || !on) {
		return tracingSettings{}, nil
	}
	s := tracingSettings{
		headers:  e.headers(),
		timeout:  e.timeout(),
		sampler:  e.sampler(),
		resource: e.resource(),
	}
	s.endpoint = e.endpoint()
	s.gzip = e.exporter("COMPRESSION", "none", "gzip", "none") == "gzip"
	e.exporter("PROTOCOL", "http/protobuf", "http/protobuf")
	s.tls = e.tls()
	if len(e.problems) > 0 {
		return tracingSettings{}, &config.Errors{Problems: e.problems}
	}
	if s.endpoint == nil {
		s.endpoint, _ = url.Parse(defaultCollector + "/v1/traces") // it is one
	}
	return s, nil
}

// get is the value of a variable; one that is empty counts as not set.
func (e *otelEnv) get(name string) string { return strings.TrimSpace(e.getenv(name)) }

// ofTraces is the value of a variable of the exporter, that for traces before that for
// all, and its name.
func (e *otelEnv) ofTraces(setting string) (name, value string) {
	name = "OTEL_EXPORTER_OTLP_TRACES_" + setting
	if value = e.get(name); value != "" {
		return name, value
	}
	name = "OTEL_EXPORTER_OTLP_" + setting
	return name, e.get(name)
}

// bad says what is wrong with a variable. The value is not told, unless it is in the text.
func (e *otelEnv) bad(name, format string, args ...any) {
	e.problems = append(e.problems, &config.Problem{Text: name + ": " + fmt.Sprintf(format, args...)})
}

// oneOf is the value of a variable, which has to be one of some, in any case.
func (e *otelEnv) oneOf(name, otherwise string, some ...string) string {
	return e.choose(name, e.get(name), otherwise, some)
}

func (e *otelEnv) exporter(setting, otherwise string, some ...string) string {
	name, value := e.ofTraces(setting)
	return e.choose(name, value, otherwise, some)
}

func (e *otelEnv) choose(name, value, otherwise string, some []string) string {
	if value == "" {
		return otherwise
	}
	for _, s := range some {
		if strings.EqualFold(value, s) {
			return s
		}
	}
	e.bad(name, "%.40q is not supported: write %s", value, strings.Join(some, " or "))
	return otherwise
}

// endpoint is where spans go, nil where nothing says so.
func (e *otelEnv) endpoint() *url.URL {
	name := "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	value, more := e.get(name), ""
	if value == "" {
		name, more = "OTEL_EXPORTER_OTLP_ENDPOINT", "/v1/traces"
		if value = e.get(name); value == "" {
			return nil
		}
	}
	u, err := url.Parse(value)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		e.bad(name, "it is not the URL of a collector: write for example %s", defaultCollector)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		e.bad(name, "it has more than scheme, host, port and path: put what is secret into OTEL_EXPORTER_OTLP_HEADERS")
	case u.Port() == "4317":
		e.bad(name, "port 4317 is that of OTLP over gRPC, which is not supported: write that of OTLP over HTTP, by default 4318")
	default:
		u.Path = strings.TrimSuffix(u.Path, "/") + more
		return u
	}
	return nil
}

// headers are what the collector wants to see. Values are not told.
func (e *otelEnv) headers() map[string]string {
	headers := make(map[string]string)
	name, value := e.ofTraces("HEADERS")
	for n, pair := range pairs(value) {
		key, text, err := decodePair(pair)
		if err == nil && (!httpguts.ValidHeaderFieldName(key) || !httpguts.ValidHeaderFieldValue(text)) {
			err = errors.New("it is no header")
		}
		if err != nil {
			e.bad(name, "element %d: %v: write name=value, with commas in between, and what is special as in URLs (%%20)", n+1, err)
			continue
		}
		headers[key] = text
	}
	return headers
}

// pairs are the elements of a list.
func pairs(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(list, ","), ",")
}

// decodePair reads an element of a list, by the W3C's form for baggage.
func decodePair(pair string) (key, value string, err error) {
	key, value, ok := strings.Cut(pair, "=")
	if key = strings.TrimSpace(key); !ok || key == "" {
		return "", "", errors.New("it has no name, or no =")
	}
	if value, err = url.PathUnescape(strings.TrimSpace(value)); err != nil {
		return "", "", errors.New("its value has a percent sign that begins nothing")
	}
	return key, value, nil
}

// timeout is how long sending may take.
func (e *otelEnv) timeout() time.Duration {
	const otherwise = 10 * time.Second
	name, value := e.ofTraces("TIMEOUT")
	if value == "" {
		return otherwise
	}
	ms, err := strconv.Atoi(value)
	if err != nil || ms <= 0 || ms > 60_000 {
		e.bad(name, "%.40q is not a number of milliseconds from 1 to 60000", value)
		return otherwise
	}
	return time.Duration(ms) * time.Millisecond
}

// sampler decides which requests are traced.
func (e *otelEnv) sampler() sdktrace.Sampler {
	share := 1.0
	const arg = "OTEL_TRACES_SAMPLER_ARG"
	name := e.oneOf("OTEL_TRACES_SAMPLER", "parentbased_always_on",
		"always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio")
	if value := e.get(arg); value != "" && strings.HasSuffix(name, "traceidratio") {
		var err error
		if share, err = strconv.ParseFloat(value, 64); err != nil || !(share >= 0 && share <= 1) {
			e.bad(arg, "%.40q is not a share of requests, from 0 to 1", value)
		}
	}
	root := sdktrace.AlwaysSample()
	switch strings.TrimPrefix(name, "parentbased_") {
	case "always_off":
		root = sdktrace.NeverSample()
	case "traceidratio":
		root = sdktrace.TraceIDRatioBased(share)
	}
	if strings.HasPrefix(name, "parentbased_") {
		return sdktrace.ParentBased(root)
	}
	return root
}

// resource is what the program is called.
func (e *otelEnv) resource() []attribute.KeyValue {
	all := map[string]string{"service.name": "registry-module", "service.version": version}
	if host, err := os.Hostname(); err == nil {
		all["host.name"] = host
	}
	const name = "OTEL_RESOURCE_ATTRIBUTES"
	for n, pair := range pairs(e.get(name)) {
		key, value, err := decodePair(pair)
		if err != nil {
			e.bad(name, "element %d: %v: write name=value, with commas in between", n+1, err)
			continue
		}
		all[key] = value
	}
	all["service.name"] = cmp.Or(e.get("OTEL_SERVICE_NAME"), all["service.name"])
	var attrs []attribute.KeyValue
	for key, value := range all {
		attrs = append(attrs, attribute.String(key, strings.ToValidUTF8(value, "\ufffd")))
	}
	return attrs
}

// tls is what the collector is trusted by, and shown, where that is not the default.
func (e *otelEnv) tls() *tls.Config {
	var c tls.Config
	name, file := e.ofTraces("CERTIFICATE")
	if file != "" {
		c.RootCAs = x509.NewCertPool()
		if pem, err := os.ReadFile(file); err != nil {
			e.bad(name, "%v", err)
		} else if !c.RootCAs.AppendCertsFromPEM(pem) {
			e.bad(name, "there is no certificate in %s", file)
		}
	}
	certName, cert := e.ofTraces("CLIENT_CERTIFICATE")
	keyName, key := e.ofTraces("CLIENT_KEY")
	switch {
	case cert == "" && key == "":
	case cert == "":
		e.bad(keyName, "it is set, and %s is not", certName)
	case key == "":
		e.bad(certName, "it is set, and %s is not", keyName)
	default:
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			e.bad(certName, "%v", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	if c.RootCAs == nil && c.Certificates == nil {
		return nil
	}
	return &c
}

// withTracing adds what is wrong with the variables of OpenTelemetry to why a
// configuration could not be read, if it could not, so that all is told at once.
func withTracing(err error, getenv func(string) string) error {
	_, tracingErr := readTracing(getenv)
	bad, ok := errors.AsType[*config.Errors](tracingErr)
	if !ok {
		return err
	}
	switch known, ok := errors.AsType[*config.Errors](err); {
	case ok:
		known.Problems = append(known.Problems, bad.Problems...)
		return err
	case err != nil:
		return errors.Join(err, bad)
	}
	return bad
}
