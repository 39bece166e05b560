using System.Text;

namespace Godwit.Migration;

/// <summary>
/// Everything that must be equal on both sides, as ordered name and value pairs (<c>ram.main.size = 1073741824</c>,
/// <c>pci.00:03.0.id = 1b36:0010</c>, <c>iommu.aw-bits = 39</c>). Compared before anything moves; every difference is listed.
/// </summary>
public sealed class MachineDescription
{
    private readonly KeyValuePair<string, string>[] _entries;

    /// <summary>Creates it from pairs with distinct names.</summary>
    /// <param name="entries">
    /// At most <see cref="StreamFormat.MaxDescriptionEntries"/>; names of 1 to <see cref="StreamFormat.MaxNameBytes"/> and values of up to
    /// <see cref="StreamFormat.MaxValueBytes"/> bytes of UTF-8 without control characters.
    /// </param>
    /// <exception cref="ArgumentException">An entry, or all of them together, are not so; the text names it.</exception>
    public MachineDescription(IEnumerable<KeyValuePair<string, string>> entries)
    {
        _entries = [.. entries.OrderBy(entry => entry.Key, StringComparer.Ordinal)];
        if (_entries.Length > StreamFormat.MaxDescriptionEntries)
        {
            throw new ArgumentException(
                $"A machine description has {_entries.Length} entries; the limit is {StreamFormat.MaxDescriptionEntries}", nameof(entries));
        }

        int bytes = 4;
        for (int i = 0; i < _entries.Length; i++)
        {
            (string name, string value) = _entries[i];
            if (Fault(name, value) is { } fault)
                throw new ArgumentException($"Machine description: {fault}", nameof(entries));
            if (i > 0 && _entries[i - 1].Key == name)
                throw new ArgumentException($"Machine description: {name} is there twice", nameof(entries));
            bytes += 8 + Encoding.UTF8.GetByteCount(name) + Encoding.UTF8.GetByteCount(value);
        }

        if (bytes > StreamFormat.MaxDescriptionBytes)
        {
            throw new ArgumentException(
                $"A machine description has {bytes} bytes; the limit is {StreamFormat.MaxDescriptionBytes}", nameof(entries));
        }
    }

    /// <summary>The pairs in ordinal order of name.</summary>
    public IReadOnlyList<KeyValuePair<string, string>> Entries => _entries;

    /// <summary>Every entry that is missing on one side or differs, in order of name; empty when equal.</summary>
    public static IReadOnlyList<DescriptionDifference> Compare(MachineDescription source, MachineDescription destination)
    {
        var differences = new List<DescriptionDifference>();
        KeyValuePair<string, string>[] left = source._entries;
        KeyValuePair<string, string>[] right = destination._entries;
        int i = 0;
        int j = 0;
        while (i < left.Length || j < right.Length)
        {
            int order = i == left.Length ? 1 : j == right.Length ? -1 : string.CompareOrdinal(left[i].Key, right[j].Key);
            if (order < 0)
            {
                differences.Add(new DescriptionDifference(left[i].Key, left[i++].Value, null));
            }
            else if (order > 0)
            {
                differences.Add(new DescriptionDifference(right[j].Key, null, right[j++].Value));
            }
            else
            {
                if (left[i].Value != right[j].Value)
                    differences.Add(new DescriptionDifference(left[i].Key, left[i].Value, right[j].Value));
                i++;
                j++;
            }
        }

        return differences;
    }

    /// <summary>What is wrong with an entry, or null.</summary>
    internal static string? Fault(string name, string value)
    {
        int nameBytes = Encoding.UTF8.GetByteCount(name);
        if (nameBytes is 0 or > StreamFormat.MaxNameBytes)
            return $"a name has {nameBytes} bytes; it must have 1 to {StreamFormat.MaxNameBytes}";
        if (name.Any(char.IsControl))
            return "a name holds a control character";
        int valueBytes = Encoding.UTF8.GetByteCount(value);
        if (valueBytes > StreamFormat.MaxValueBytes)
            return $"the value of {name} has {valueBytes} bytes; the limit is {StreamFormat.MaxValueBytes}";
        return value.Any(char.IsControl) ? $"the value of {name} holds a control character" : null;
    }
}

/// <summary>One difference; null means absent on that side.</summary>
public readonly record struct DescriptionDifference(string Name, string? Source, string? Destination)
{
    /// <summary>The difference as people read it.</summary>
    public override string ToString() => $"{Name}: source {Source ?? "has none"}, destination {Destination ?? "has none"}";
}
