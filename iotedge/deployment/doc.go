// Package deployment makes what Azure IoT Edge needs to run registry-module in a
// hierarchy of gateways: for one layer the deployment manifest, in its full and in its
// layered form, the config.toml of the device, and the commands for its certificates. It
// also has the rules that a deployment manifest has to keep, as [Validate].
//
// It promises that what [Generate] returns keeps these rules, that the same options give
// the same bytes, and that no secret is in it: there are placeholders of the form ${NAME}
// in their place, which the result lists.
//
// The rules come from these sources; none of their text is here:
//
//   - the JSON schema azure-iot-edge-deployment-2.0 of schemastore.org, which Azure's tools
//     apply to manifests;
//   - "Properties of the IoT Edge agent and IoT Edge hub module twins" and "Learn how to
//     deploy modules and establish routes", learn.microsoft.com/azure/iot-edge;
//   - "Understand and use device twins in IoT Hub", learn.microsoft.com/azure/iot-hub, for
//     sizes, depth and characters;
//   - github.com/Azure/iotedge for what the agent itself refuses: parts of createOptions and
//     images (edge-agent), routes (edge-hub, Route.g4), config.toml (edgelet).
//
// Manifests that are checked are outside input: they are read up to a size, a depth and a
// number of problems. The package imports nothing of this module, and does no input or
// output.
package deployment
