using Godwit.Machine.Guests;
using Godwit.Machine.Guests.Edu;
using Godwit.Machine.Guests.Stress;
using Godwit.Machine.Managed;

namespace Godwit.Machine;

/// <summary>A guest program as listed by <c>godwit run --help</c>.</summary>
/// <param name="Name">What <see cref="MachineConfig.Guest"/> names.</param>
/// <param name="Description">One line.</param>
/// <param name="Options">Options it takes, with the default of each.</param>
public sealed record GuestProgramInfo(string Name, string Description, IReadOnlyList<(string Name, string Default, string Description)> Options);

/// <summary>The guest programs there are.</summary>
public static class GuestPrograms
{
    private static readonly Entry[] Entries =
    [
        new("idle", "Halts and stays halted.", [], static () => new IdleProgram()),
        new("nvme-stress",
            "Drives every NVMe device through the vIOMMU without a pause, dirties memory, and verifies all it reads.",
            StressOptions.Definitions, static () => new StressProgram()),
        new(EduProgram.ProgramName,
            "Copies pages through an educational device, each mapped for its transfer alone, and verifies all pages over and over.",
            EduOptions.Definitions, static () => new EduProgram()),
    ];

    /// <summary>Name and one-line description of each, with the options it takes.</summary>
    public static IReadOnlyList<GuestProgramInfo> All { get; } =
        [.. Entries.Select(e => new GuestProgramInfo(e.Name, e.Description, [.. e.Options.Select(o => (o.Name, o.Default, o.Description))]))];

    /// <summary>A program by name.</summary>
    /// <exception cref="ArgumentException">There is no such program.</exception>
    internal static GuestProgram Create(string name) => Find(name).Create();

    /// <summary>
    /// The value of every option, defaults filled in, in the program's order; what the guest gets as its command line and what both sides
    /// of a migration must share.
    /// </summary>
    /// <exception cref="ArgumentException">Unknown program or option, or a value that cannot be.</exception>
    internal static IReadOnlyList<KeyValuePair<string, string>> Resolve(string name, IReadOnlyDictionary<string, string> given)
    {
        Entry entry = Find(name);
        foreach (string option in given.Keys)
        {
            if (!entry.Options.Any(o => o.Name == option))
            {
                string known = entry.Options.Count == 0 ? "it takes none" : $"it takes {string.Join(", ", entry.Options.Select(o => o.Name))}";
                throw new ArgumentException($"Guest {name} has no option '{option}'; {known}.");
            }
        }

        var result = new List<KeyValuePair<string, string>>(entry.Options.Count);
        foreach (GuestOption option in entry.Options)
        {
            string text = given.GetValueOrDefault(option.Name, option.Default);
            option.Parse(text);
            result.Add(new(option.Name, text));
        }

        return result;
    }

    private static Entry Find(string name) => Entries.FirstOrDefault(e => e.Name == name)
        ?? throw new ArgumentException($"There is no guest '{name}'; there are {string.Join(", ", Entries.Select(e => e.Name))}.");

    private sealed record Entry(string Name, string Description, IReadOnlyList<GuestOption> Options, Func<GuestProgram> Create);
}
