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
        Option<string[]> socket = DeviceCommand.Socket();
        var image = new Option<string[]>("--image")
        {
            Description = "Backing file or block device. Both sides of a migration use the same one; only the running side writes it. With several sockets either one for all of them, or one for each in order.",
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

            Several controllers in one process, for example both ends of a migration on this machine, share nothing but what they write to:
            an image belongs to one of them at a time.

            Example: godwit device nvme --socket /tmp/a.sock --image disk.img --size 1G
                     godwit device nvme --socket /tmp/a.sock --socket /tmp/b.sock --image disk.img
            """)
        {
            socket, image, size, blockSize, serial, parent,
        };
        limits.AddTo(command);
        command.Validators.Add(result =>
        {
            int sockets = result.GetValue(socket)?.Length ?? 0;
            int images = result.GetValue(image)?.Length ?? 0;
            if (images > 1 && images != sockets)
            {
                result.AddError($"{images} --image for {sockets} --socket: give one image for all, or one for each");
            }
        });
        command.SetAction(parsed =>
        {
            string[] images = parsed.GetRequiredValue(image);
            string[] sockets = parsed.GetRequiredValue(socket);
            NvmeOptions[] options = [.. sockets.Select((_, i) => new NvmeOptions
            {
                ImagePath = images[images.Length == 1 ? 0 : i],
                Size = parsed.GetValue(size),
                BlockSize = parsed.Value(blockSize),
                Serial = parsed.GetValue(serial),
            })];
            using var signals = new StopSignals(parsed.GetValue(parent));
            Serve(options, sockets, limits.Read(parsed), signals.Requested);
            return ExitCodes.Ok;
        });
        return command;
    }

    private static void Serve(NvmeOptions[] options, string[] sockets, DmaLogLimits limits, CancellationToken stop)
    {
        var devices = new List<NvmeController>();
        try
        {
            for (int i = 0; i < options.Length; i++)
            {
                devices.Add(NvmeController.Create(options[i], DeviceCommand.LogOf(sockets[i], sockets)));
            }

            DeviceCommand.Serve(devices, sockets, limits, stop);
        }
        catch (NvmeOptionsException e)
        {
            throw new CliException(e.Message, e);
        }
        finally
        {
            foreach (NvmeController device in devices)
            {
                device.Dispose();
            }
        }
    }
}
