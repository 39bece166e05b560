using System.Text.Json;
using Godwit.Machine;

namespace Godwit.Monitor;

/// <summary>Commands about the machine as a whole: its state, its name, its guest, its end.</summary>
internal sealed class MachineCommands(VirtualMachine machine, TaskCompletionSource quit)
{
    public void AddTo(QmpCommandTable commands)
    {
        commands.Add("query-status", QueryStatus);
        commands.Add("query-name", QueryName);
        commands.Add("x-query-guest", QueryGuest);
        commands.AddBlocking("stop", (_, _) => machine.Stop());
        commands.AddBlocking("cont", (_, _) => machine.Continue());
        commands.AddBlocking("system_powerdown", (_, _) => machine.PressPowerButton());
        commands.Add("quit", (_, _) => quit.TrySetResult());
    }

    private void QueryStatus(QmpArguments arguments, Utf8JsonWriter result)
    {
        RunState state = machine.RunState;
        result.WriteStartObject();
        result.WriteBoolean("running", state == RunState.Running);
        result.WriteString("status", QmpNames.Of(state));
        result.WriteEndObject();
    }

    private void QueryName(QmpArguments arguments, Utf8JsonWriter result)
    {
        result.WriteStartObject();
        result.WriteString("name", machine.Config.Name);
        result.WriteEndObject();
    }

    private void QueryGuest(QmpArguments arguments, Utf8JsonWriter result)
    {
        GuestReport guest = machine.QueryGuest();
        result.WriteStartObject();
        result.WriteString("name", guest.Name);
        result.WriteString("phase", guest.Phase);
        result.WriteNumber("reads", guest.Reads);
        result.WriteNumber("writes", guest.Writes);
        result.WriteNumber("other-commands", guest.OtherCommands);
        result.WriteNumber("blocks-verified", guest.BlocksVerified);
        result.WriteNumber("pages-verified", guest.PagesVerified);
        result.WriteNumber("mismatches", guest.Mismatches);
        result.WriteStartArray("mismatch-details");
        foreach (string detail in guest.MismatchDetails)
        {
            result.WriteStringValue(detail);
        }

        result.WriteEndArray();
        result.WriteNumber("maps", guest.Maps);
        result.WriteNumber("unmaps", guest.Unmaps);
        result.WriteNumber("interrupts", guest.Interrupts);
        result.WriteNumber("remote-interrupts", guest.RemoteInterrupts);
        result.WriteNumber("cpu-pages-dirtied", guest.CpuPagesDirtied);
        result.WriteNumber("iommu-faults", guest.IommuFaults);
        result.WriteNumber("domain-switches", guest.DomainSwitches);
        if (guest.Panic is not null)
        {
            result.WriteString("panic", guest.Panic);
        }

        result.WriteEndObject();
    }
}
