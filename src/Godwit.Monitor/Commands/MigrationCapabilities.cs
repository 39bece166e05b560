using System.Text.Json;
using Godwit.Machine;

namespace Godwit.Monitor;

/// <summary>QEMU's migration capabilities (qapi MigrationCapability), as far as there are any here.</summary>
/// <param name="machine">The machine.</param>
/// <param name="parameters">Held while parameters are read, changed and written back.</param>
internal sealed class MigrationCapabilities(VirtualMachine machine, Lock parameters)
{
    private const string PauseBeforeSwitchover = "pause-before-switchover";
    private const string PostCopy = "postcopy-ram";

    public void AddTo(QmpCommandTable commands)
    {
        commands.Add("migrate-set-capabilities", Set, "capabilities");
        commands.Add("query-migrate-capabilities", Query);
    }

    /// <summary>
    /// After post-copy's switch a page is fetched when it is touched. A vCPU can be made to wait for that; a device's DMA cannot: VFIO
    /// devices need every page they may reach present and pinned.
    /// </summary>
    public static QmpException PostCopyRefused(VirtualMachine machine) => new(machine.Devices.Count == 0
        ? $"Capability '{PostCopy}' is not supported"
        : $"Capability '{PostCopy}' is not possible with the VFIO devices {string.Join(", ", machine.Devices.Select(device => device.Id))}: "
            + "their DMA cannot wait for a page that has not come yet");

    private void Set(QmpArguments arguments, Utf8JsonWriter result)
    {
        if (!arguments.Find("capabilities", out JsonElement list) || list.ValueKind != JsonValueKind.Array)
        {
            throw new QmpException("Argument 'capabilities' must be an array of objects with 'capability' and 'state'");
        }

        bool? pause = null;
        foreach (JsonElement item in list.EnumerateArray())
        {
            if (item.ValueKind != JsonValueKind.Object
                || !item.TryGetProperty("capability", out JsonElement name) || name.ValueKind != JsonValueKind.String
                || !item.TryGetProperty("state", out JsonElement state) || state.ValueKind is not (JsonValueKind.True or JsonValueKind.False))
            {
                throw new QmpException("Argument 'capabilities': each needs the string 'capability' and the truth value 'state'");
            }

            bool on = state.GetBoolean();
            switch (name.GetString())
            {
                case PauseBeforeSwitchover:
                    pause = on;
                    break;
                case PostCopy when on:
                    throw PostCopyRefused(machine);
                case PostCopy:
                    break;
                default:
                    throw new QmpException($"Capability '{name.GetString()}' is not known: {PauseBeforeSwitchover} and {PostCopy} are");
            }
        }

        if (pause is { } value)
        {
            lock (parameters)
            {
                machine.Migration.Parameters = machine.Migration.Parameters with { PauseBeforeSwitchover = value };
            }
        }
    }

    private void Query(QmpArguments arguments, Utf8JsonWriter result)
    {
        result.WriteStartArray();
        Write(PauseBeforeSwitchover, machine.Migration.Parameters.PauseBeforeSwitchover);
        Write(PostCopy, false);
        result.WriteEndArray();

        void Write(string name, bool state)
        {
            result.WriteStartObject();
            result.WriteString("capability", name);
            result.WriteBoolean("state", state);
            result.WriteEndObject();
        }
    }
}
