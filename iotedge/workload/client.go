package workload

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"
	"unicode"
)

// Variables that the IoT Edge runtime sets in each module.
const (
	URIVariable             = "IOTEDGE_WORKLOADURI"
	ModuleIDVariable        = "IOTEDGE_MODULEID"
	GenerationIDVariable    = "IOTEDGE_MODULEGENERATIONID"
	APIVersionVariable      = "IOTEDGE_APIVERSION"
	GatewayHostnameVariable = "IOTEDGE_GATEWAYHOSTNAME"
)

// DefaultAPIVersion is the version of the workload API that is asked for where
// none is known. All versions have what this package needs.
const DefaultAPIVersion = "2019-01-30"

// DefaultTimeout bounds one question. A new certificate needs a key, which a small
// device takes seconds to make.
const DefaultTimeout = 30 * time.Second

// maxAnswer is the size in bytes up to which an answer is read: a chain of
// certificates and a key have some 10 KB, a trust bundle with all public
// authorities some 200.
const maxAnswer = 1 << 20

// maxMessage is how much of an error of the API is repeated, in bytes.
const maxMessage = 300

// Options say where the workload API is, and which module asks. All but URI may be
// left out by who only wants the trust bundle.
type Options struct {
	// URI is that of the API: unix:///path/of/socket or http://host:port.
	URI string
	// ModuleID and GenerationID are what the runtime calls this module.
	ModuleID, GenerationID string
	// APIVersion is the version to ask for. Default: [DefaultAPIVersion].
	APIVersion string
	// GatewayHostname is the name by which lower layers know this device.
	GatewayHostname string
	// Timeout bounds one question. Default: [DefaultTimeout].
	Timeout time.Duration
}

// FromEnvironment returns the options that the IoT Edge runtime gives to a module in
// its environment, which getenv reads, as [os.Getenv]. What is missing there is said
// by who needs it: [New] and [Client.NewServerCertificate].
func FromEnvironment(getenv func(string) string) Options {
	return Options{
		URI:             getenv(URIVariable),
		ModuleID:        getenv(ModuleIDVariable),
		GenerationID:    getenv(GenerationIDVariable),
		APIVersion:      getenv(APIVersionVariable),
		GatewayHostname: getenv(GatewayHostnameVariable),
	}
}

// missing returns an error that names all of the variables that have no value, in
// the order of pairs of name and value.
func missing(pairs ...string) error {
	var names []string
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			names = append(names, pairs[i])
		}
	}
	if len(names) == 0 {
		return nil
	}
	text := "%s is not set: the IoT Edge runtime sets it in each module, and this works only there"
	if len(names) > 1 {
		text = "%s are not set: the IoT Edge runtime sets them in each module, and this works only there"
	}
	return fmt.Errorf(text, strings.Join(names, ", "))
}

// Client asks the workload API. It keeps no connection open, and is safe for use by
// several goroutines.
type Client struct {
	opts Options
	base *url.URL // what paths are appended to
	http *http.Client
}

// New returns a client. It makes no connection.
func New(opts Options) (*Client, error) {
	if err := missing(URIVariable, opts.URI); err != nil {
		return nil, err
	}
	u, err := url.Parse(opts.URI)
	if err != nil {
		return nil, fmt.Errorf("%s: %q is not a URI", URIVariable, opts.URI)
	}
	transport := &http.Transport{
		// Questions are rare, and the runtime may have been restarted since the last.
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: 64 << 10,
	}
	switch {
	case u.Scheme == "unix" && u.Host == "" && u.Path != "":
		socket := u.Path
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}
		u = &url.URL{Scheme: "http", Host: "localhost"}
	case u.Scheme == "http" && u.Hostname() != "":
	default:
		return nil, fmt.Errorf("%s: %q is not the URI of a workload API: it is unix:///path/of/socket or http://host:port", URIVariable, opts.URI)
	}
	opts.APIVersion = cmp.Or(opts.APIVersion, DefaultAPIVersion)
	if opts.Timeout <= 0 {
		opts.Timeout = DefaultTimeout
	}
	return &Client{
		opts: opts,
		base: &url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimRight(u.Path, "/")},
		http: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// TrustBundle asks for the certificates (PEM) of the authorities that this device
// trusts: of config.toml (trust_bundle_cert) and of the provisioning service. There
// may be none, which is no error. What is no certificate is left out.
func (c *Client) TrustBundle(ctx context.Context) ([]byte, error) {
	const op = "asking the IoT Edge workload API for the trust bundle"
	body, err := c.ask(ctx, http.MethodGet, nil, "trust-bundle")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	bundle, err := parseTrustBundle(body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	return bundle, nil
}

// ServerCertificate asks for a certificate for a server with that common name, which
// is among its names, too, beside the module's. It is wanted until expiration, but
// newer runtimes have a limit of their own, and do not look at that. Each answer has
// another key.
func (c *Client) ServerCertificate(ctx context.Context, commonName string, expiration time.Time) (*tls.Certificate, error) {
	const op = "asking the IoT Edge workload API for a server certificate"
	if err := missing(ModuleIDVariable, c.opts.ModuleID, GenerationIDVariable, c.opts.GenerationID); err != nil {
		return nil, err
	}
	question, err := json.Marshal(map[string]string{
		"commonName": commonName,
		"expiration": expiration.UTC().Format(time.RFC3339),
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	body, err := c.ask(ctx, http.MethodPost, question, "modules", c.opts.ModuleID, "genid", c.opts.GenerationID, "certificate", "server")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	cert, err := parseServerCertificate(body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	return cert, nil
}

// ask puts one question, to the path that steps make up, and returns the body of a
// good answer.
func (c *Client) ask(ctx context.Context, method string, question []byte, steps ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	u := *c.base
	escaped := u.EscapedPath()
	for _, step := range steps {
		u.Path += "/" + step
		escaped += "/" + url.PathEscape(step)
	}
	u.RawPath = escaped
	u.RawQuery = url.Values{"api-version": {c.opts.APIVersion}}.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(question))
	if err != nil {
		return nil, fmt.Errorf("the question cannot be put: see that %s, %s and %s are as the runtime has set them",
			URIVariable, ModuleIDVariable, GenerationIDVariable)
	}
	if question != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }() // what is of interest has been read
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, c.unreachable(ctx, err)
	case len(body) > maxAnswer:
		return nil, errors.New("the answer is larger than 1 MiB: see the log of aziot-edged (iotedge system logs)")
	case resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated:
		return nil, c.refused(resp.StatusCode, body)
	}
	return body, nil
}

// unreachable says why there is no answer, and what can be done about it.
func (c *Client) unreachable(ctx context.Context, err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err
	}
	hint := "the runtime may be starting; see iotedge system status, and iotedge system logs"
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("no answer within %v: %w", c.opts.Timeout, err)
	case errors.Is(err, fs.ErrNotExist):
		hint = "there is no such socket: " + URIVariable + " is " + c.opts.URI + ", which the runtime mounts into each module"
	case errors.Is(err, fs.ErrPermission):
		hint = "this program's user may not open the socket of " + URIVariable + ": run the module with the user of its image"
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.ErrUnexpectedEOF):
		hint = "the runtime is not running or is just being restarted; see iotedge system status"
	}
	return fmt.Errorf("%w (%s)", err, hint)
}

// refused is an answer with a status that is not one of success.
func (c *Client) refused(status int, body []byte) error {
	text := fmt.Sprintf("HTTP status %d", status)
	var answer struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &answer) == nil && answer.Message != "" {
		text += ": " + clean(answer.Message)
	}
	switch status {
	case http.StatusForbidden, http.StatusUnauthorized:
		text += fmt.Sprintf(" (only the module itself is answered: it is %s by %s)", clean(c.opts.ModuleID), ModuleIDVariable)
	case http.StatusNotFound:
		text += fmt.Sprintf(" (the runtime does not know module %s of %s, or version %s of %s)",
			clean(c.opts.ModuleID), ModuleIDVariable, clean(c.opts.APIVersion), APIVersionVariable)
	default:
		text += " (see iotedge system logs, and iotedge check)"
	}
	return errors.New(text)
}

// clean makes a text of the API fit to be repeated. There is no reason for a key to be
// in it.
func clean(text string) string {
	if strings.Contains(text, "PRIVATE KEY") {
		return "(left out: it has a private key in it)"
	}
	return printable(text)
}

// printable makes a text fit for one line of a log, and bounds it.
func printable(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") + "..."
	}
	return text
}
