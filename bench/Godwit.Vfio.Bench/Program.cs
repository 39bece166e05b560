using Godwit.Vfio.Bench;

// dotnet run -c Release --project bench/Godwit.Vfio.Bench -- sync [quick]   what a sync costs, against two other ways; quick: within seconds
// dotnet run -c Release --project bench/Godwit.Vfio.Bench -- table [quick]  what the mapping table costs
bool quick = args is [_, "quick"];
switch (args)
{
    case ["sync", ..]:
        return SyncTable.Run(quick);
    case ["table", ..]:
        return MappingTableCosts.Run(quick ? 100_000 : 4_000_000);
    default:
        Console.Error.WriteLine("sync [quick] or table [quick]");
        return 2;
}
