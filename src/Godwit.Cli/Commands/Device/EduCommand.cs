using System.CommandLine;
using System.Globalization;
using Godwit.Devices;

namespace Godwit.Cli;

/// <summary><c>godwit device edu</c>.</summary>
internal static class EduCommand
{
    public static DocumentedCommand Create()
    {
        Option<string[]> socket = DeviceCommand.Socket();
        var mask = new DefaultedOption<ulong>("--dma-mask", EduDevice.DefaultDmaMask)
        {
            Description = $"Address bits that its DMA engine puts out, in hexadecimal. [default: 0x{EduDevice.DefaultDmaMask:x}]",
            HelpName = "MASK",
            CustomParser = result =>
            {
                string text = result.Tokens[0].Value;
                string digits = text.StartsWith("0x", StringComparison.OrdinalIgnoreCase) ? text[2..] : text;
                if (!ulong.TryParse(digits, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out ulong value))
                {
                    result.AddError($"--dma-mask '{text}' is not a hexadecimal number of up to 64 bits");
                }

                return value;
            },
        };
        Option<bool> parent = CommonOptions.ExitWithParent();
        var limits = new LogLimitOptions();
        var command = new DocumentedCommand(
            "edu",
            "Serve QEMU's educational PCI device.",
            static () =>
            """
            Identification, liveness, factorials, interrupts and a DMA engine, as QEMU's documentation of 'edu' has them.
            Prints 'listening on PATH' when it can be connected to.

            Example: godwit device edu --socket /tmp/edu.sock
            """)
        {
            socket, mask, parent,
        };
        limits.AddTo(command);
        command.SetAction(parsed =>
        {
            using var signals = new StopSignals(parsed.GetValue(parent));
            string[] sockets = parsed.GetRequiredValue(socket);
            EduDevice[] devices = [.. sockets.Select(path => new EduDevice(parsed.Value(mask)) { Log = DeviceCommand.LogOf(path, sockets) })];
            try
            {
                DeviceCommand.Serve(devices, sockets, limits.Read(parsed), signals.Requested);
            }
            finally
            {
                foreach (EduDevice device in devices)
                {
                    device.Dispose();
                }
            }

            return ExitCodes.Ok;
        });
        return command;
    }
}
