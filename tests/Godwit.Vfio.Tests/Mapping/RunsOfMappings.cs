namespace Godwit.Vfio.Tests;

/// <summary>What a table keeps as runs, as it was inserted.</summary>
internal static class RunsOfMappings
{
    /// <summary>The mappings of the run that a cursor has stepped to.</summary>
    public static IEnumerable<Mapping> Mappings(this MappingTable.Cursor cursor)
    {
        Mapping run = cursor.Current;
        for (ulong page = 0; page < run.Iova.Count; page += cursor.MappingPages)
            yield return new Mapping(new IovaPages(run.Iova.First + page, cursor.MappingPages), run.Ram + page, run.Writable);
    }
}
