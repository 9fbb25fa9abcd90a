package deployment

import (
	"bytes"
	_ "embed" // for the templates
	"encoding/json"
	"fmt"
	"strconv"
	"text/template"
)

var (
	//go:embed templates/config.toml.tmpl
	configTemplate string
	//go:embed templates/certificates.sh.tmpl
	certificatesTemplate string
	//go:embed templates/readme.md.tmpl
	readmeTemplate string
)

// fill fills in a template. What it is given is checked: hosts have neither quotes nor
// spaces.
func fill(name, text string, data any) ([]byte, error) {
	t, err := template.New(name).Option("missingkey=error").Funcs(template.FuncMap{"toml": tomlString}).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return b.Bytes(), nil
}

// tomlString is s as a basic string of TOML 1.0, of which those of JSON are a part.
func tomlString(s string) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(s)
	return string(bytes.TrimSuffix(b.Bytes(), []byte("\n"))), err
}

// configTOML is the configuration of the device (github.com/Azure/iotedge,
// edgelet/contrib/config/linux/template.toml).
func (o Options) configTOML() ([]byte, error) {
	agent, err := o.below(agentImage + o.Runtime)
	if err != nil {
		return nil, err
	}
	data := map[string]any{
		"Layer": o.Layer, "Hostname": o.Hostname, "ParentHostname": o.ParentHostname, "AutoEdgeCA": o.AutoEdgeCA,
		"AgentImage": agent, "ConnectionString": placeholder(connectionString), "Script": CertificatesFile, "Auth": nil,
	}
	// What the agent's own image is pulled with, before there is a deployment. $upstream
	// is filled in here, too (edgelet-settings, parent_hostname_resolve).
	if c, ok := o.credentials()["upstream"]; ok {
		data["Auth"] = c
	}
	return fill(ConfigFile, configTemplate, data)
}

// certificates is a script that makes the certificates of the device.
func (o Options) certificates() ([]byte, error) {
	return fill(CertificatesFile, certificatesTemplate, map[string]any{
		"Hostname": o.Hostname, "ParentHostname": o.ParentHostname, "Port": o.Port, "Script": CertificatesFile,
	})
}

// readme says what to do with the files.
func (o Options) readme(made []File, r *Result) ([]byte, error) {
	type used struct{ Name, Use string }
	uses := map[string]string{
		ManifestFile:     "what the device is to run, for `az iot edge set-modules`, or to paste from into the portal (Set modules)",
		LayeredFile:      "the same as a layered deployment, for `az iot edge deployment create --layered`",
		ConfigFile:       "/etc/aziot/config.toml of the device",
		CertificatesFile: "makes the root CA and the CA of this device, with OpenSSL",
	}
	var files []used
	for _, f := range made {
		files = append(files, used{f.Name, uses[f.Name]})
	}
	device := o.Hostname
	if device == "" {
		device = "The device"
	}
	return fill(NotesFile, readmeTemplate, map[string]any{
		"Layer": o.Layer, "Hostname": device, "Files": files, "Placeholders": r.Placeholders,
		"Notes": r.Notes, "Steps": o.steps(made[0].Name, len(made) > 1),
	})
}

// steps are what to do, in order.
func (o Options) steps(manifest string, device bool) []string {
	var steps []string
	port := strconv.Itoa(o.Port)
	if device {
		if !o.AutoEdgeCA {
			steps = append(steps, "On a safe machine: `./"+CertificatesFile+" certificates`, with the same directory for all devices. It prints where its files go.")
		}
		steps = append(steps, "On the device: `"+ConfigFile+"` is /etc/aziot/config.toml; then `iotedge config apply`.")
	}
	if o.Layer != Top {
		steps = append(steps, "In IoT Hub the device is a child of the one above it: `az iot hub device-identity parent set --device-id DEVICE --parent-device-id PARENT --hub-name HUB`.")
	}
	if o.Layered {
		steps = append(steps, "Apply the deployment: `az iot edge deployment create --layered --deployment-id registry-"+string(o.Layer)+" --hub-name HUB --content "+manifest+" --target-condition \"deviceId='DEVICE'\" --priority 10`.")
	} else {
		steps = append(steps, "Apply the deployment: `az iot edge set-modules --device-id DEVICE --hub-name HUB --content "+manifest+"`.")
	}
	steps = append(steps, "See it run: `iotedge list`, `iotedge check`.")
	if o.runsRegistry() {
		steps = append(steps, "See the way to each remote registry: `docker exec "+registryModule+" /registry-module doctor`.")
	}
	if o.Layer != Bottom {
		steps = append(steps, "From the device below: `curl --cacert root-ca.cert.pem https://"+hostOr(o.Hostname)+":"+port+"/v2/` is answered, with 200 or 401.")
	}
	return steps
}

// hostOr is host, or what stands for one.
func hostOr(host string) string {
	if host == "" {
		return "HOSTNAME"
	}
	return host
}
