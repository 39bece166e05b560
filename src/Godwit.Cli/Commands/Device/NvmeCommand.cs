using System.CommandLine;
using Godwit.Devices;
using Godwit.VfioUser;

namespace Godwit.Cli;

/// <summary><c>godwit device nvme</c>.</summary>
internal static class NvmeCommand
{
    private const ulong LargestImage = 1UL << 46;

    public static DocumentedCommand Create()
    {
        Option<string> socket = DeviceCommand.Socket();
        var image = new Option<string>("--image")
        {
            Description = "Backing file or block device. Both sides of a migration use the same one; only the running side writes it.",
            HelpName = "PATH",
            Required = true,
        };
        var size = new Option<ulong?>("--size")
        {
            Description = "Size of the disk. A file that is missing is created with it; one that exists must have it. [default: size of the image]",
            HelpName = "SIZE",
            CustomParser = result =>
            {
                string text = result.Tokens[0].Value;
                if (!ByteSize.TryParse(text, out ulong bytes))
                {
                    result.AddError($"--size '{text}' is not a size: a whole number with K, M, G or T, for example 64M");
                }
                else if (bytes is 0 or > LargestImage)
                {
                    result.AddError($"--size '{text}' must be from 1 to {ByteSize.Exact(LargestImage)}");
                }

                return bytes;
            },
        };
        DefaultedOption<int> blockSize = CommonOptions.Choice("--block-size", "Bytes of a logical block.", 4096, ("512", 512), ("4096", 4096));
        var serial = new Option<string?>("--serial")
        {
            Description = "Serial number, 1 to 20 printable ASCII characters; equal on both sides of a migration. [default: from the image's name]",
            HelpName = "TEXT",
        };
        Option<bool> parent = CommonOptions.ExitWithParent();
        var limits = new LogLimitOptions();
        var command = new DocumentedCommand(
            "nvme",
            "Serve an NVMe controller with one namespace on an image.",
            static () =>
            """
            One machine at a time may use it; it takes the next one when that has gone.
            Prints 'listening on PATH' when it can be connected to.

            Example: godwit device nvme --socket /tmp/a.sock --image disk.img --size 1G
            """)
        {
            socket, image, size, blockSize, serial, parent,
        };
        limits.AddTo(command);
        command.SetAction(parsed =>
        {
            var options = new NvmeOptions
            {
                ImagePath = parsed.GetRequiredValue(image),
                Size = parsed.GetValue(size),
                BlockSize = parsed.Value(blockSize),
                Serial = parsed.GetValue(serial),
            };
            using var signals = new StopSignals(parsed.GetValue(parent));
            Serve(options, parsed.GetRequiredValue(socket), limits.Read(parsed), signals.Requested);
            return ExitCodes.Ok;
        });
        return command;
    }

    private static void Serve(NvmeOptions options, string socket, DmaLogLimits limits, CancellationToken stop)
    {
        NvmeController device;
        try
        {
            device = NvmeController.Create(options, Console.WriteLine);
        }
        catch (NvmeOptionsException e)
        {
            throw new CliException(e.Message, e);
        }

        using (device)
        {
            DeviceCommand.Serve(device, socket, limits, stop);
        }
    }
}
