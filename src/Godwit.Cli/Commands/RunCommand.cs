using System.CommandLine;
using System.CommandLine.Parsing;
using System.Text;
using Godwit.Machine;
using Godwit.Migration;
using Godwit.Vfio;

namespace Godwit.Cli;

/// <summary><c>godwit run</c>: one machine in this process until it is told to quit.</summary>
internal static class RunCommand
{
    private const int LongestName = 63;

    public static Command Create()
    {
        var name = new Option<string>("--name")
        {
            Description = "Name of the machine, shown in its output and status. [default: godwit]",
            HelpName = "NAME",
            DefaultValueFactory = static _ => "godwit",
        };
        name.Validators.Add(static result =>
        {
            if (result.GetValueOrDefault<string>() is { Length: 0 or > LongestName } text)
            {
                result.AddError($"--name must have 1 to {LongestName} characters, this one has {text.Length}");
            }
        });
        DefaultedOption<ulong> memory = CommonOptions.Memory(1UL << 30);
        var devices = new Option<VfioDeviceOptions[]>("--device")
        {
            Description = "Plug a device: vfio-user,socket=PATH or vfio,host=ADDRESS|SYSFS-PATH or vfio,fd=N (with host-iommu=auto|type1|iommufd), and [,id=NAME][,enable-migration=auto|off|force][,dirty-tracking=auto|device|iommu|pessimistic|off][,map-bars=on|off]. May be given several times; they get the slots "
                + "from 00:03.0 on.",
            HelpName = "DEVICE",
            CustomParser = static result => CommonOptions.Parsed(result, "--device", () => Devices(result.Tokens)),
            DefaultValueFactory = static _ => [],
        };
        var guest = new Option<KeyValueList>("--guest")
        {
            Description = "Guest program and its options: NAME[,option=value...], see below. [default: idle]",
            HelpName = "GUEST",
            DefaultValueFactory = static _ => KeyValueList.Parse("idle"),
            CustomParser = static result => CommonOptions.Parsed(result, "--guest", () => Guest(result.Tokens[0].Value)),
        };
        var monitor = new Option<string>("--monitor")
        {
            Description = "Path of the QMP socket to listen on.",
            HelpName = "PATH",
            Required = true,
        };
        var incoming = new Option<string?>("--incoming")
        {
            Description = $"Wait for a migration at URI instead of booting: {MigrationUri.Forms}; 'defer' waits for the command migrate-incoming.",
            HelpName = "URI",
        };
        var tls = new Option<string?>("--tls")
        {
            Description = $"Take and make migrations over TLS 1.3 only, with {TlsCredentials.AuthorityFile}, {TlsCredentials.CertificateFile} and {TlsCredentials.KeyFile} in this directory.",
            HelpName = "DIRECTORY",
        };
        var tlsPeers = new Option<string[]>("--tls-peer")
        {
            Description = "Name that the other side's certificate must have; of several, one. Without, a source wants the host of its tcp: address.",
            HelpName = "NAME",
            DefaultValueFactory = static _ => [],
        };
        var metrics = new Option<string?>("--metrics")
        {
            Description = "Serve counters for Prometheus at http://HOST:PORT/metrics.",
            HelpName = "HOST:PORT",
        };
        Option<bool> parent = CommonOptions.ExitWithParent();
        var command = new DocumentedCommand("run", "Run one machine in this process.", Page)
        {
            name, memory, devices, guest, monitor, incoming, tls, tlsPeers, metrics, parent,
        };
        var iommu = new IommuOptions(
            command, ("--aw-bits", "aw-bits"), ("--caching-mode", "caching-mode"), ("--pass-through", "pt"));
        command.SetAction(async parsed =>
        {
            IommuArgument unit = iommu.Read(parsed);
            KeyValueList program = parsed.GetRequiredValue(guest);
            var config = new MachineConfig
            {
                Name = parsed.GetRequiredValue(name),
                MemoryBytes = parsed.Value(memory),
                Vcpus = (int)parsed.Value(iommu.Vcpus),
                Iommu = unit.Kind,
                Intel = unit.Intel,
                Devices = parsed.GetRequiredValue(devices),
                Guest = program.Kind,
                GuestOptions = program.Settings,
            };
            TlsCredentials? credentials = parsed.GetValue(tls) is { } directory ? TlsCredentials.Load(directory, parsed.GetRequiredValue(tlsPeers)) : null;
            using var signals = new StopSignals(parsed.GetValue(parent));
            return await MachineProcess.RunAsync(config, parsed.GetRequiredValue(monitor), parsed.GetValue(incoming), credentials, parsed.GetValue(metrics), signals.Requested);
        });
        return command;
    }

    private static VfioDeviceOptions[] Devices(IReadOnlyList<Token> texts)
    {
        VfioDeviceOptions[] devices = [.. texts.Select((text, position) => DeviceArgument.Parse(text.Value, position))];
        if (devices.GroupBy(device => device.Kernel?.Descriptor).FirstOrDefault(group => group.Key is not null && group.Skip(1).Any()) is { Key: { } number })
        {
            throw new FormatException($"two devices have the descriptor {number}");
        }

        IGrouping<string, VfioDeviceOptions>? same = devices.GroupBy(device => device.Id, StringComparer.Ordinal).FirstOrDefault(group => group.Skip(1).Any());
        return same is null ? devices : throw new FormatException($"two devices have the id '{same.Key}'");
    }

    /// <summary>Names are checked here, where the mistake was made; values by the program itself.</summary>
    private static KeyValueList Guest(string text)
    {
        KeyValueList guest = KeyValueList.Parse(text);
        GuestProgramInfo program = GuestPrograms.All.FirstOrDefault(each => each.Name == guest.Kind)
            ?? throw new FormatException($"there is no guest '{guest.Kind}': {string.Join(", ", GuestPrograms.All.Select(each => each.Name))}");
        foreach (string option in guest.Settings.Keys)
        {
            if (!program.Options.Any(each => each.Name == option))
            {
                string known = program.Options.Count == 0 ? "it has none" : string.Join(", ", program.Options.Select(each => each.Name));
                throw new FormatException($"'{option}' is not an option of {program.Name}: {known}");
            }
        }

        return guest;
    }

    private static string Page()
    {
        var text = new StringBuilder(
            """
            Runs until 'godwit quit', SIGINT or SIGTERM. Prints a line per event; the first is 'monitor at PATH'.
            After a migration that completed, the source stays in the state postmigrate until it is told to quit.

            Examples:
              godwit run --name src --memory 1G --iommu intel --device vfio-user,socket=/tmp/a.sock --guest nvme-stress --monitor /tmp/src.qmp
              godwit run --name pass --memory 1G --iommu intel --device vfio,host=0000:3b:00.2 --guest idle --monitor /tmp/pass.qmp
              godwit run --name dst --memory 1G --iommu intel --device vfio-user,socket=/tmp/b.sock --guest nvme-stress --monitor /tmp/dst.qmp \
                --incoming unix:/tmp/mig.sock
              godwit run --vcpus 300 --iommu intel,intremap=on,eim=on --guest idle --monitor /tmp/big.qmp

            Properties of --iommu intel (docs/viommu.md):

            """);
        text.Append(IommuArgument.Page());
        text.Append("\n\nGuest programs:");
        foreach (GuestProgramInfo program in GuestPrograms.All)
        {
            text.Append($"\n  {program.Name}: {program.Description}");
            foreach ((string option, string byDefault, string description) in program.Options)
            {
                text.Append($"\n      {option}={byDefault}  {description}");
            }
        }

        return text.ToString();
    }
}
