using System.Globalization;

namespace Godwit.Migration;

/// <summary>
/// What is compared: the machine's own description, and what the stream depends on by itself (blocks, devices and states are numbers in it).
/// </summary>
internal static class StreamDescription
{
    /// <summary>The description of <paramref name="host"/> as it is now.</summary>
    /// <param name="host">The machine.</param>
    /// <param name="handover">RAM goes by descriptor: the other side must be at the same kind of address.</param>
    internal static MachineDescription Of(IMigrationHost host, bool handover = false)
    {
        var entries = new List<KeyValuePair<string, string>>(host.Describe().Entries);
        for (int i = 0; i < host.Ram.Blocks.Count; i++)
            Add("ram", i, $"{host.Ram.Blocks[i].Name}, {host.Ram.Blocks[i].Size} bytes");
        for (int i = 0; i < host.Devices.Count; i++)
            Add("device", i, host.Devices[i].Id);
        for (int i = 0; i < host.States.Count; i++)
            Add("state", i, host.States[i].Id);
        if (handover)
            entries.Add(new("stream.transfer", "local handover"));
        return new MachineDescription(entries);

        void Add(string kind, int index, string value) =>
            entries.Add(new(string.Create(CultureInfo.InvariantCulture, $"stream.{kind}.{index:d3}"), value));
    }
}
