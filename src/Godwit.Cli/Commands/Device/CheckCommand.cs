using System.CommandLine;
using System.Text;
using System.Text.Json;
using Godwit.Vfio;
using Godwit.VfioUser;

namespace Godwit.Cli;

/// <summary><c>godwit device check</c>: examines any vfio-user device, or one of this host's kernel.</summary>
internal static class CheckCommand
{
    public static DocumentedCommand Create()
    {
        var socket = new Option<string?>("--socket") { Description = "Path of the device's socket. Nobody else may be connected.", HelpName = "PATH" };
        var host = new Option<string?>("--host")
        {
            Description = "Instead of a socket: address of a PCI device of this host that is bound to vfio-pci, as 0000:3b:00.2, or its path in sysfs.",
            HelpName = "ADDRESS",
        };
        var iommu = new Option<string>("--host-iommu")
        {
            Description = "How a device of this host is attached. [default: auto]",
            HelpName = "auto|type1|iommufd",
        };
        iommu.AcceptOnlyFromAmong("auto", "type1", "iommufd");
        var second = new Option<string?>("--second")
        {
            Description = "Path of another instance of the same device, into which saved state is restored. [default: the same one, after a reset]",
            HelpName = "PATH",
        };
        DefaultedOption<TimeSpan?> timeout = CommonOptions.Time(
            "--timeout", "How long the device may take for one answer.", TimeSpan.FromSeconds(5), TimeSpan.FromSeconds(1), TimeSpan.FromMilliseconds(10), TimeSpan.FromMinutes(10));
        Option<bool> json = CommonOptions.Json();
        var command = new DocumentedCommand(
            "check",
            "Examine a vfio-user device or one of this host: what it does right and wrong, from attaching to migration.",
            static () =>
            """
            The device is reset, mapped, migrated and left by force; no guest may use it. Exit code 0 when nothing failed, 1 otherwise.
            Devices that the examiner can drive (edu, nvme) are also made to write to memory, to see whether their log tells the truth.

            Examples:
              godwit device check --socket /tmp/a.sock --second /tmp/b.sock
              godwit device check --host 0000:3b:00.2
            """)
        {
            socket, host, iommu, second, timeout, json,
        };
        command.Validators.Add(result =>
        {
            if (result.GetValue(socket) is null == result.GetValue(host) is null)
            {
                result.AddError("device check needs one of --socket and --host");
            }
            else if (result.GetValue(host) is not null && result.GetValue(second) is not null)
            {
                result.AddError("--second is for devices with a socket");
            }
            else if (result.GetValue(socket) is not null && result.GetValue(iommu) is not null)
            {
                result.AddError("--host-iommu is for devices of this host");
            }
        });
        command.SetAction(parsed =>
        {
            bool asJson = parsed.GetValue(json);
            Action<CheckResult>? progress = asJson ? null : Print;
            ExaminationReport report = parsed.GetValue(host) is { } address
                ? KernelExaminer.Run(new KernelDeviceOptions { Host = address, Iommu = DeviceArgument.HostIommu(parsed.GetValue(iommu) ?? "auto") }, progress)
                : DeviceExaminer.Run(
                    new DeviceExaminerOptions
                    {
                        Socket = parsed.GetRequiredValue(socket)!,
                        Second = parsed.GetValue(second),
                        ReplyTimeout = parsed.Value(timeout)!.Value,
                    },
                    progress);
            Console.WriteLine(asJson
                ? Json(report)
                : $"{report.Count(CheckOutcome.Pass)} passed, {report.Count(CheckOutcome.Fail)} failed, {report.Count(CheckOutcome.NotOffered)} not offered");
            return report.Passed ? ExitCodes.Ok : ExitCodes.Failed;
        });
        return command;
    }

    private static void Print(CheckResult result)
    {
        Console.WriteLine($"{Word(result.Outcome),-11}  {result.Name,-22}  {result.Meaning}");
        if (result.Why is not null)
        {
            Console.WriteLine($"{"",-37}{(result.Outcome == CheckOutcome.Fail ? "but: " : "")}{result.Why}");
        }
    }

    private static string Json(ExaminationReport report)
    {
        using var stream = new MemoryStream();
        using (var writer = new Utf8JsonWriter(stream))
        {
            writer.WriteStartObject();
            writer.WriteNumber("passed", report.Count(CheckOutcome.Pass));
            writer.WriteNumber("failed", report.Count(CheckOutcome.Fail));
            writer.WriteNumber("not-offered", report.Count(CheckOutcome.NotOffered));
            writer.WriteStartArray("checks");
            foreach (CheckResult result in report.Results)
            {
                writer.WriteStartObject();
                writer.WriteString("name", result.Name);
                writer.WriteString("outcome", Word(result.Outcome).ToLowerInvariant().Replace(' ', '-'));
                writer.WriteString("meaning", result.Meaning);
                if (result.Why is not null)
                {
                    writer.WriteString("why", result.Why);
                }

                writer.WriteEndObject();
            }

            writer.WriteEndArray();
            writer.WriteEndObject();
        }

        return Encoding.UTF8.GetString(stream.ToArray());
    }

    private static string Word(CheckOutcome outcome) => outcome switch
    {
        CheckOutcome.Pass => "pass",
        CheckOutcome.Fail => "FAIL",
        _ => "not offered",
    };
}
