using System.Globalization;
using Godwit.Vfio.Bench;

// dotnet run -c Release --project bench/Godwit.Vfio.Bench -- sync [quick]                   what a sync costs, against two other ways; quick: within seconds
// dotnet run -c Release --project bench/Godwit.Vfio.Bench -- sync LAYOUT MAPPINGS BITS      one line of it for each share of dirty pages, e.g. scattered 1000000 48
// dotnet run -c Release --project bench/Godwit.Vfio.Bench -- table [quick]                  what the mapping table costs
bool quick = args is [_, "quick"];
switch (args)
{
    case ["sync", { } layout, { } mappings, { } bits]:
        return SyncTable.Run(
            Enum.Parse<Layout>(layout, ignoreCase: true), int.Parse(mappings, CultureInfo.InvariantCulture), int.Parse(bits, CultureInfo.InvariantCulture));
    case ["sync"] or ["sync", "quick"]:
        return SyncTable.Run(quick);
    case ["table"] or ["table", "quick"]:
        return MappingTableCosts.Run(quick ? 100_000 : 4_000_000);
    default:
        Console.Error.WriteLine("sync [quick], sync LAYOUT MAPPINGS BITS or table [quick]");
        return 2;
}
