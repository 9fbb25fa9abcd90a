package disk

// What tests of the package see of it.
var Command = command
